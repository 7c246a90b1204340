# slds with a GPU. The CUDA libraries come with torch; the host brings the driver and NVIDIA's container toolkit.
#   docker build -t slds .
#   docker run --rm -it --gpus all -e HF_TOKEN -v "$PWD:/data" slds train --config configs/ipst/slds/sft_liger_peft.yaml
FROM python:3.12-slim

# A GPU's first step is compiled with Triton, which takes a C compiler.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ gcc \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/slds
COPY . .
RUN pip install --no-cache-dir -c constraints.txt torch \
    && pip install --no-cache-dir -c constraints.txt '.[gpu,demo,evaluate,pdf,serve]'

# Models, data and runs stay in the mounted folder.
ENV HF_HOME=/data/.cache/huggingface SLDS_CACHE=/data/.cache/slds
WORKDIR /data
ENTRYPOINT ["slds"]
CMD ["--help"]
