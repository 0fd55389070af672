# Sourced by the examples, with a folder: sites of this machine with the built-in images, each in a folder of its own there.
# It needs the commands of nnunet-gml and nnU-Net in PATH (source .venv/bin/activate).
set -euo pipefail
examples=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=$(mkdir -p "${1:?name a folder for the sites}" && cd "$1" && pwd)
trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT

export nnUNet_extTrainer="$(nnunet-gml trainers):$examples/phantom/trainers"
export nnUNet_n_proc_DA=1 nnUNet_def_n_proc=1 PYTHONUNBUFFERED=1                # small images, few processes
DATASET=42 CONFIGURATION=3d_small TRAINER=nnUNetTrainerGML_short
declare -A port=([north]="${PORT:-2222}" [east]=$((${PORT:-2222} + 1)) [south]=$((${PORT:-2222} + 2)))
declare -A server training

# at SITE: what follows is typed at that site
at() {
  mkdir -p "$folder/$1"
  cd "$folder/$1"
  export nnUNet_raw="$PWD/nnUNet_raw" nnUNet_preprocessed="$PWD/nnUNet_preprocessed" nnUNet_results="$PWD/nnUNet_results"
  export nnUNet_gml_site="$PWD/gml/site.toml"
}

# equip SITE: images, as nnU-Net's raw dataset
equip() {
  at "$1"
  python "$examples/phantom/images.py" "$DATASET" "$1"
}

# dial_in SITE: keys, site.toml and a card of a site that others reach by the built-in server
dial_in() {
  at "$1"
  nnunet-gml init gml --site "$1" --address "sftp://127.0.0.1:${port[$1]}" --listen "127.0.0.1:${port[$1]}"
}

# federate NAME SITE...: the first founds the federation from all cards, and sends its file to the others
federate() {
  local name="$1" site cards=()
  shift
  for site in "$@"; do
    cards+=("$folder/$site/gml/$site.card")
  done
  at "$1"
  nnunet-gml federation new "$name" "${cards[@]}" --seed 7 --out gml/federation.toml
  hand_out gml/federation.toml "${@:2}"
}

# hand_out FILE SITE...: the founder's federation.toml is beside everybody's site.toml
hand_out() {
  local site
  for site in "${@:2}"; do
    cp "$1" "$folder/$site/gml/federation.toml"
  done
}

# plan SITE: it plans for all, and offers its plans
plan() {
  at "$1"
  nnUNetv2_plan_and_preprocess -d "$DATASET" --no_pp -npfp 1
  python "$examples/phantom/small_plans.py" "$DATASET" "$CONFIGURATION"
  nnunet-gml plans offer gml/site.toml "$DATASET" "$CONFIGURATION"
  nnUNetv2_preprocess -d "$DATASET" -plans_name nnUNetPlans -c "$CONFIGURATION" -np 1
}

# adopt SITE FROM: it takes the plans that another site offers
adopt() {
  at "$1"
  nnunet-gml plans adopt gml/site.toml "$DATASET" --from "$2" -np 1
}

# share_plans SITE...: the first plans, and the others adopt that
share_plans() {
  local site
  plan "$1"
  for site in "${@:2}"; do
    adopt "$site" "$1"
  done
}

# serve SITE: the others may read its outbox, also while it does not train
serve() {
  at "$1"
  nnunet-gml serve gml/site.toml > serve.log 2>&1 &
  server[$1]=$!
  until grep -qs listening serve.log; do
    kill -0 "${server[$1]}" || { cat serve.log; exit 1; }
    sleep 0.2
  done
}

# until_known SITE PEER: wait until the peer's server has noticed that federation.toml has this site now, and lets it in
until_known() {
  local tries=0
  at "$1"
  until nnunet-gml doctor --peer "$2" > doctor.log || grep -q "^ok  *login" doctor.log; do
    ((++tries < 30)) || { cat doctor.log; exit 1; }
    sleep 1
  done
}

# begin SITE [--c]: train, beside the others
begin() {
  at "$1"
  nnUNet_n_proc_DA=0 nnUNetv2_train "$DATASET" "$CONFIGURATION" 0 -tr "$TRAINER" -device cpu "${@:2}" >> train.log 2>&1 &
  training[$1]=$!
}

# finish SITE...: until their trainings have ended
finish() {
  local site
  for site in "$@"; do
    wait "${training[$site]}" || { tail -n 30 "$folder/$site/train.log"; exit 1; }
  done
}

# interrupt SITE...: end their trainings, as a scheduler or a power cut would
interrupt() {
  local site
  for site in "$@"; do
    end "${training[$site]}"
  done
}

# end PID: and wait until it has ended
end() {
  kill "$1" && wait "$1" || true
}

# until_epoch SITE NUMBER: wait until its training has begun that epoch
until_epoch() {
  at "$1"
  until grep -qsE "Epoch ($(seq -s '|' "$2" 99))" train.log; do
    still_trains "$1"
  done
}

# until_met SITE PEER: wait until its training has met that peer's weights
until_met() {
  at "$1"
  until grep -hqs "\"peer\": \"$2\"" nnUNet_results/*/*/fold_0/gml_rounds.jsonl; do
    still_trains "$1"
  done
}

# still_trains SITE: or show why not, and end
still_trains() {
  kill -0 "${training[$1]}" || { tail -n 30 train.log; exit 1; }
  sleep 0.2
}
