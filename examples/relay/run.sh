#!/usr/bin/env bash
# Two sites that nobody can dial, with a shared folder that must not read their weights. Usage: run.sh FOLDER
source "$(dirname "$0")/../phantom/sites.sh" "$@"

# The shared folder has a folder for each site; each writes only into its own
for site in north east; do
  mkdir -p "$folder/shared/$site"
  equip $site
  nnunet-gml init gml --site $site --relay "folder:$folder/shared/$site"
  echo 'encrypt = true' >> gml/site.toml
done

federate relay north east

# Plans go through the folder, too; nothing has to be served
share_plans north east

for site in north east; do
  begin $site
done
finish north east

for site in north east; do
  at $site
  nnunet-gml status gml/site.toml
done
