#!/usr/bin/env bash
# Two sites on a laptop, from nothing to trained. Usage: run.sh FOLDER
source "$(dirname "$0")/../phantom/sites.sh" "$@"

# The images of each site, its keys, and its card
for site in north east; do
  equip $site
  dial_in $site
done

# North founds the federation from the cards, and sends the file to east
federate laptop north east
at north
nnunet-gml federation show gml/federation.toml

# From now on each can read the other's outbox
for site in north east; do
  serve $site
done

# One plan for both
share_plans north east

for site in north east; do
  at $site
  nnunet-gml check "$DATASET" "$CONFIGURATION" 0 -tr "$TRAINER" --no-steps
done

# Both train at the same time, and learn from each other
for site in north east; do
  begin $site
done
finish north east

for site in north east; do
  at $site
  nnunet-gml explain nnUNet_results
done
