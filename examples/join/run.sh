#!/usr/bin/env bash
# South joins when north and east have exchanged weights for twenty rounds. Usage: run.sh FOLDER
source "$(dirname "$0")/../phantom/sites.sh" "$@"

# A federation of two, as in ../laptop
for site in north east; do
  equip $site
  dial_in $site
done
federate join north east
for site in north east; do
  serve $site
done
share_plans north east
for site in north east; do
  begin $site
done
until_epoch north 20        # here a round begins after every epoch
until_epoch east 20
interrupt north east        # these trainings are short: they wait while south prepares its data

# South makes its keys and its card; north takes it in, and sends the new file to all
equip south
dial_in south
at north
nnunet-gml federation add gml/federation.toml ../south/gml/south.card
hand_out gml/federation.toml east south

# The servers of north and east notice the new file by themselves, within seconds
serve south
until_known south north
adopt south north
begin south
begin north --c
begin east --c
finish north east south

for site in north south; do
  at $site
  nnunet-gml provenance nnUNet_results
done
