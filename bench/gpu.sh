#!/bin/sh
# All that a GPU has to show, on a bare node with a torch of its own: no DVC, no network. In under 25 minutes.
#   bench/gpu.sh <folder that holds the data sets> [folder for what is measured]
# Without Omniglot in the first folder its rows are left out. Each part says how long it took; one that fails does not
# stop the others, and makes the script fail at its end.
set -u
root=${1:?name the folder that holds the data sets}
out=${2:-runs/gpu}
failed=0
mkdir -p "$out"

part() {
    name=$1 limit=$2
    shift 2
    before=$(date +%s)
    timeout "$limit" "$@" >"$out/$name.log" 2>&1 && how=done || { how=FAILED; failed=1; }
    echo "$name: $how in $(($(date +%s) - before)) s, $out/$name.log"
}

stages() {
    for stage in pretrain_body prepare_tasks collect_trajectories meta_train generate_weights evaluate; do
        python -m "pipeline.$stage" --data "$out/data" || return
    done
}

python -c 'import torch; assert torch.cuda.is_available(), "no card"; print(torch.__version__, torch.cuda.get_device_name())' || exit 2

part tests 400 env LTDI_DEVICE=cuda python -m pytest -q tests/test_card.py tests/test_run.py tests/test_audit.py \
    tests/test_program.py tests/test_transductive_run.py tests/test_zero_shot.py tests/test_adapters.py
before=$(date +%s)
stages >"$out/stages.log" 2>&1 && how=done || { how=FAILED; failed=1; }
echo "stages: $how in $(($(date +%s) - before)) s, $out/stages.log"
part speed 240 python -m bench speed --pairs 5
if [ -d "$root/omniglot-py" ] || [ -d "$root/omniglot" ]; then
    part omniglot 720 python -m bench run --root "$root" --budget full \
        --setting omniglot-5w1s --setting omniglot-5w5s --setting omniglot-20w1s --setting omniglot-20w5s
fi
exit $failed
