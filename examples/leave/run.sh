#!/usr/bin/env bash
# South leaves a federation of three, and asks what its weights have touched. Usage: run.sh FOLDER
source "$(dirname "$0")/../phantom/sites.sh" "$@"

# A federation of three, as in ../laptop
for site in north east south; do
  equip $site
  dial_in $site
done
federate leave north east south
for site in north east south; do
  serve $site
done
share_plans north east south
for site in north east south; do
  begin $site
done
until_met north south

# South ends its training and its server; north takes it out, and sends the new file to those who stay
interrupt south
end "${server[south]}"
at north
nnunet-gml federation remove gml/federation.toml south
hand_out gml/federation.toml east

# Their servers and trainings notice the new file by themselves
finish north east

# Which epochs have weights of south touched? Exit code 1 says: some
for site in north east; do
  at $site
  nnunet-gml provenance nnUNet_results --site south || [ $? -eq 1 ]
done
