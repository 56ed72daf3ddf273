#!/usr/bin/env bash
# Everything that needs a CUDA device, in one call: the tests marked gpu, latency and training tables, a short training of
# each family on a zip of CIFAR-10 images. Rows go to results/*_<name>.csv.
#
#   benchmarks/gpu.sh h200 path/to/cifar10-train.zip [python]
set -euo pipefail
cd "$(dirname "$0")/.."
NAME=${1:?name of the machine, for the file names}
ZIP=${2:?zip of CIFAR-10 images, CLASS/NAME.jpg}
PYTHON=${3:-python}
DZ=("$PYTHON" -m denoisezoo)
OUT=${OUT:-results}
NETS=(ddpm_cifar10 ddpmpp_cifar10 ncsnpp_cifar10 adm_imagenet64)

"$PYTHON" -m pytest -m gpu tests

# Eager, channels-last, bf16, compiled and CUDA graphs side by side, at batch 1 and 64, with energy; then training steps.
"${DZ[@]}" profile "${NETS[@]}" --device cuda --batch-size 1,64 --variants all --csv "$OUT/latency_$NAME.csv"
"${DZ[@]}" profile "${NETS[@]}" --device cuda --batch-size 64 --variants channels_last,bf16,compiled_bf16 --training \
  --csv "$OUT/training_$NAME.csv"

# What a plan saves in time of what it saves in multiply-adds.
"$PYTHON" benchmarks/extraction.py --device cuda --rounds 5 --csv "$OUT/extraction_$NAME.csv"

# Each family on the same zip, equal images; the test split is held out of the training zip.
WORK=$(mktemp -d)
for family in ddpm ddpmpp ncsnpp adm missing_u_fast slim; do
  cat > "$WORK/$family.yaml" <<EOF
extends: cifar10_zip/$family
data:
  init_args:
    path: $(realpath "$ZIP")
    test_path: null
EOF
done
"${DZ[@]}" compare "$WORK"/*.yaml --budget images=512000 --device cuda --sampler heun --steps 18 --num 5000 \
  --features pixels --title "Six denoisers on CIFAR-10, $NAME" --out "$WORK/compare"
cp "$WORK/compare/results.csv" "$OUT/cifar10_zip_$NAME.csv"
