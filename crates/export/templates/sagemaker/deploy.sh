#!/usr/bin/env bash
# Uploads this folder, and makes a SageMaker model and an endpoint of it.
#
#   BUCKET=my-bucket ROLE_ARN=arn:aws:iam::123456789012:role/sagemaker IMAGE=... REGION=us-east-1 deploy/deploy.sh
#
# IMAGE is an LMI (djl-inference) image with vLLM. PREFIX (default: @NAME@) is where in the bucket; INSTANCE the machine.
set -euo pipefail
: "${BUCKET:?the bucket that the model is uploaded to}"
: "${ROLE_ARN:?a role that SageMaker may take, with read access to the bucket}"
: "${IMAGE:?an LMI image with vLLM}"
: "${REGION:?the region}"
PREFIX="${PREFIX:-@NAME@}"
INSTANCE="${INSTANCE:-ml.g5.2xlarge}"
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

aws s3 sync "$here/.." "s3://$BUCKET/$PREFIX/" --region "$REGION" --exclude 'deploy/*' --exclude export.json >&2
sed -e "s|ROLE_ARN|$ROLE_ARN|g" -e "s|IMAGE|$IMAGE|g" -e "s|BUCKET|$BUCKET|g" -e "s|PREFIX|$PREFIX|g" \
    "$here/create-model.json" > "$work/create-model.json"
aws sagemaker create-model --region "$REGION" --cli-input-json "file://$work/create-model.json" >&2
aws sagemaker create-endpoint-config --region "$REGION" --endpoint-config-name "@NAME@" --production-variants \
    "VariantName=main,ModelName=@NAME@,InstanceType=$INSTANCE,InitialInstanceCount=1,ContainerStartupHealthCheckTimeoutInSeconds=900" >&2
aws sagemaker create-endpoint --region "$REGION" --endpoint-name "@NAME@" --endpoint-config-name "@NAME@" >&2
aws sagemaker wait endpoint-in-service --region "$REGION" --endpoint-name "@NAME@"
echo "@NAME@"
