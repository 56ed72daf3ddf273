#!/usr/bin/env bash
# Everything that needs a CUDA device, in eight parts and under nine minutes. Each part has a time limit of its own, and
# one that fails or does not end leaves the others alone. Rows are written as they come, to $OUT (results/ unless set):
# parts, training, inference, sampling, extraction, evaluation and frechet, each _NAME.csv, and the log, gpu_NAME.log.
#
#   benchmarks/gpu.sh NAME path/to/cifar10-train.zip [PYTHON]     NAME of the machine, for the names of the files
#   benchmarks/gpu.sh --rehearse [PYTHON]                         every line of it, tiny, without a GPU
#   benchmarks/gpu.sh --estimates                                 count the work again: results/gpu_estimates.csv
#   PARTS="compiled sampling" benchmarks/gpu.sh ...               some of the parts
#
# Beside each part stands its estimate from results/gpu_estimates.csv; benchmarks/estimates.py says what that is made of.
# PYTHON needs torch, lightning, jsonargparse, docstring-parser and typeshed-client; it need not have denoisezoo.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

ALL="tests eager compiled inference sampling extraction adm family"
limit_of() { # seconds
  case $1 in tests | eager) echo 60 ;; compiled) echo 90 ;; inference) echo 100 ;; sampling | extraction) echo 40 ;;
  adm) echo 30 ;; family) echo 120 ;; esac
}

py() { "$PYTHON" "$@"; }
on_device() { py ${PRETENDED:+"$PRETENDED"} "$@" --device "$DEVICE"; }
dz() { py ${PRETENDED:+"$PRETENDED"} -m denoisezoo "$@"; }
training() { # NETWORK BATCH MODES
  on_device benchmarks/train_step.py "$1" --batch-size "$2" --modes "$3" $STEPS --append --csv "$OUT/training_$NAME.csv"
}

run_part() {
  case $1 in
  tests)
    local fine=0
    py -m pytest -p no:cacheprovider --continue-on-collection-errors $WORKERS -m gpu $GPU_TESTS || fine=1
    if ls tests/device/test_*.py >/dev/null 2>&1; then # the tests on the pretended device
      py -m pytest -p no:cacheprovider $WORKERS tests/device $SOME_TESTS || fine=1
    fi
    return $fine
    ;;
  eager) training "$UNET" "$BATCH" bf16_eager,bf16_eager_nhwc ;;
  compiled) PRETENDED="" DEVICE=$COMPILING training "$COMPILED" "$BATCH" bf16,bf16_nchw ;;
  inference)
    PRETENDED='' DEVICE=$COMPILING on_device benchmarks/inference.py "$COMPILED" --batch-size "$CALL" --dtype bfloat16 \
      --modes "$MODES" $RUNS --csv "$OUT/inference_$NAME.csv"
    ;;
  sampling)
    on_device benchmarks/sampling.py "$UNET" --samplers "$SAMPLERS" --num "$IMAGES" --batch-size "$BATCH" \
      --dtype "$DTYPE" --csv "$OUT/sampling_$NAME.csv"
    ;;
  extraction)
    on_device benchmarks/extraction.py --denoiser "$SLIM" --plan "$PLAN" --batch-sizes "1,$CALL" --rounds "$ROUNDS" \
      --steps "$WALK" --modes sliced,contiguous,channels_last --dtype "$DTYPE" --csv "$OUT/extraction_$NAME.csv"
    ;;
  adm) training "$ADM" "$CALL" bf16_eager ;;
  family)
    local fine=0
    dz train --config cifar10_zip/ddpm --data.path "$ZIP" --data.test_path null --data.memory_limit_gb 4 \
      --trainer.accelerator "${DEVICE%%:*}" --trainer.max_time "$TRAINING" --trainer.default_root_dir "$WORK/run" \
      --trainer.enable_progress_bar false --model.compile false $FAMILY &&
      dz evaluate "$WORK/run" --device "$DEVICE" --num "$GENERATED" --batch-size "$BATCH" --sampler heun --steps "$HEUN" \
        --out "$WORK/evaluation" --csv "$OUT/evaluation_$NAME.csv" || fine=1
    on_device benchmarks/frechet.py --sizes "$MATRICES" --csv "$OUT/frechet_$NAME.csv" || fine=1
    return $fine
    ;;
  esac
}

main() { # a function, so that bash has read all of it before anything runs
  if [ "${1:-}" = --part ]; then # how each part runs itself, so that `timeout` ends all of it
    run_part "$2"
    exit
  fi
  if [ "${1:-}" = --estimates ]; then
    exec "${2:-python}" benchmarks/estimates.py --csv results/gpu_estimates.csv
  fi

  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
  FAMILY='' SOME_TESTS='' RUNS='' PRETENDED=''
  if [ "${1:-}" = --rehearse ]; then
    PYTHON=${2:-python} NAME=rehearsal REHEARSAL=1 OUT=${OUT:-$WORK/rows}
    ZIP=$WORK/images.zip DEVICE=cpu COMPILING=cpu DTYPE=bfloat16 WORKERS='-n 0' SOME_TESTS=--collect-only
    UNET=ddpm_digits COMPILED=dit_digits ADM=adm_digits SLIM=slim_ddpm_digits PLAN=uniform:effort=0.5
    BATCH=8 CALL=4 STEPS='--block 1 --rounds 1 --warmup 1 --allowed 1e9' MODES=eager,compiled RUNS='--runs 2'
    IMAGES=8 SAMPLERS=heun:2,ddpm:3 ROUNDS=1 WALK=2 TRAINING=00:00:05:00 GENERATED=8 HEUN=2 MATRICES=8,16
    export XDG_CACHE_HOME=$WORK # what is timed here is no peak of a device
    FAMILY='--model.denoiser ddpm_digits --data.resolution 16 --data.channels 1 --data.batch_size 8 --trainer.max_steps 2'
    # Layers of the pretended device cannot be made bfloat16, and what is compiled runs on the CPU.
    if py benchmarks/pretended.py; then PRETENDED=benchmarks/pretended.py DEVICE=cuda DTYPE=float32; fi
    py -c "
import io, random, sys, zipfile
from PIL import Image
with zipfile.ZipFile(sys.argv[1], 'w') as file:
    for i in range(16):
        data = io.BytesIO()
        Image.frombytes('RGB', (16, 16), random.Random(i).randbytes(768)).save(data, 'PNG')
        file.writestr(f'{i % 2}/{i}.png', data.getvalue())
" "$ZIP" || exit
  else
    NAME=${1:?name of the machine, for the names of the files} REHEARSAL=''
    ZIP=$(realpath "${2:?zip of CIFAR-10 images, CLASS/NAME.jpg}") PYTHON=${3:-python} OUT=${OUT:-results}
    DEVICE=cuda COMPILING=cuda DTYPE=bfloat16 WORKERS='-n 8'
    UNET=ddpm_cifar10 COMPILED=ddpm_cifar10 ADM=adm_imagenet64 SLIM=slim_ddpm_cifar10 PLAN=ddsm_cifar10
    BATCH=512 CALL=64 STEPS='--block 5 --rounds 5 --warmup 5' MODES=eager,compiled,graphs
    IMAGES=1024 SAMPLERS=heun:18,ddpm:100 ROUNDS=3 WALK=20 TRAINING=00:00:01:00 GENERATED=5000 HEUN=18
    MATRICES=256,512,1024,2048
  fi
  GPU_TESTS=$(grep -rl --include='test_*.py' 'mark\.gpu' tests)
  mkdir -p "$OUT"
  OUT=$(realpath "$OUT")
  export NAME ZIP PYTHON OUT WORK DEVICE COMPILING DTYPE PRETENDED WORKERS GPU_TESTS SOME_TESTS UNET COMPILED ADM SLIM
  export MATRICES PLAN BATCH CALL STEPS MODES RUNS IMAGES SAMPLERS ROUNDS WALK TRAINING GENERATED HEUN FAMILY

  LOG=$OUT/gpu_$NAME.log TABLE=$OUT/parts_$NAME.csv failed=''
  echo "part,estimate_s,limit_s,seconds,status,date" >"$TABLE"
  : >"$LOG"
  for part in ${PARTS:-$ALL}; do
    limit=$(limit_of "$part")
    estimate=$(awk -F, -v part="$part" '$1 == part {print $2}' results/gpu_estimates.csv)
    echo "== $part: about $estimate s on an H200, at most $limit s" | tee -a "$LOG"
    [ -n "$REHEARSAL" ] && limit=3600 # the machine may be busy
    begin=$(date +%s.%N) status=0
    timeout -k 5 "$limit" bash benchmarks/gpu.sh --part "$part" 2>&1 | tee -a "$LOG" || status=$?
    seconds=$(awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN {printf "%.1f", b - a}')
    echo "$part,$estimate,$limit,$seconds,$status,$(date -u +%FT%TZ)" >>"$TABLE"
    [ "$status" = 0 ] || failed="$failed $part($status)"
  done
  column -s, -t "$TABLE" 2>/dev/null || cat "$TABLE"
  [ -z "$failed" ] || echo "did not end well:$failed"
  # Rows are what a device is lent for, whatever failed; a rehearsal is there to say that something does.
  [ -z "$REHEARSAL" ] || [ -z "$failed" ]
}

main "$@"
exit
