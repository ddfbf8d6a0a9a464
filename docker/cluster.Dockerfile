# A machine of the cluster: the lock's packages, flash-attention, and this code. In the checkout:
#   docker build --file docker/cluster.Dockerfile --tag rearank-cluster .
#   docker run --gpus all --shm-size=16g --ulimit memlock=-1 --volume "$PWD/outputs:/rearank/outputs" rearank-cluster \
#     python run.py experiment=paper task=preflight
# The driver of the host must be R580 or newer (CUDA 13).
#
# How far this is checked: there was no Docker engine. The two installs were run as they stand in an environment of Python 3.12
# without a GPU, and the packages import; flash-attention's wheel, the base image and Ubuntu's packages were not fetched.
#
# devel, not runtime: vLLM and Triton compile kernels when they start, and ask for nvcc and a C compiler.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3.12 python3.12-dev python3.12-venv gcc g++ git libnuma1 \
 && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 2000 rearank \
 && mkdir --parents /opt/rearank /rearank/outputs \
 && chown --recursive rearank /opt/rearank /rearank
USER rearank
WORKDIR /rearank
ENV PATH=/opt/rearank/bin:$PATH PYTHONUNBUFFERED=1

# The lock alone first: this layer stays when the code changes.
COPY --chown=rearank constraints /rearank/constraints
RUN python3.12 -m venv /opt/rearank \
 && python -m pip install --no-cache-dir --constraint constraints/cpu.txt uv \
 && uv pip install --no-cache --python /opt/rearank/bin/python --no-deps --requirement constraints/cluster.txt
# verl's wheelhouse: CUDA 13, torch 2.11, Python 3.12. Without it training works and is slow: drop this where it can't be reached.
RUN uv pip install --no-cache --python /opt/rearank/bin/python --no-deps \
    --default-index https://verl-project.github.io/verl-wheelhouse/simple/ flash-attn==2.8.3

COPY --chown=rearank . /rearank
RUN uv pip install --no-cache --python /opt/rearank/bin/python --no-deps --editable .

CMD ["python", "run.py", "--help"]
