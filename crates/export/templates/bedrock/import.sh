#!/usr/bin/env bash
# Uploads this model, and imports it into Amazon Bedrock; prints the ARN of the imported model.
#
#   BUCKET=my-bucket REGION=us-east-1 deploy/import.sh
#
# PREFIX (default: @NAME@) is where in the bucket, ROLE the role's name. Who runs it needs bedrock:CreateModelImportJob,
# bedrock:GetModelImportJob and iam:PassRole, and for a new role iam:CreateRole, iam:GetRole and iam:PutRolePolicy.
set -euo pipefail
: "${BUCKET:?the bucket that the model is uploaded to}"
: "${REGION:?us-east-1, us-east-2, us-west-2 or eu-central-1}"
PREFIX="${PREFIX:-@NAME@}"
ROLE="${ROLE:-bedrock-model-import}"
RETRY_SECONDS="${RETRY_SECONDS:-20}"
POLL_SECONDS="${POLL_SECONDS:-30}"
here="$(cd "$(dirname "$0")" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
say() { echo "$*" >&2; }

account="$(aws sts get-caller-identity --query Account --output text)"
fill() {
    sed -e "s|ACCOUNT_ID|$account|g" -e "s|REGION|$REGION|g" -e "s|BUCKET|$BUCKET|g" -e "s|PREFIX|$PREFIX|g" \
        -e "s|ROLE_ARN|${role_arn:-}|g" -e "s|JOB_NAME|${job_name:-}|g" "$here/$1" > "$work/$1"
}

if ! aws iam get-role --role-name "$ROLE" > /dev/null 2>&1; then
    say "creating the role $ROLE"
    fill trust-policy.json
    aws iam create-role --role-name "$ROLE" --assume-role-policy-document "file://$work/trust-policy.json" > /dev/null
fi
fill s3-policy.json
aws iam put-role-policy --role-name "$ROLE" --policy-name "read-$BUCKET" --policy-document "file://$work/s3-policy.json"
role_arn="$(aws iam get-role --role-name "$ROLE" --query Role.Arn --output text)"

# Flat: what lies in folders is no part of the model.
aws s3 sync "$here/.." "s3://$BUCKET/$PREFIX/" --region "$REGION" --exclude '*/*' --exclude export.json >&2

job_name="$(printf '%.40s-%s' "@NAME@" "$(date -u +%Y%m%d-%H%M%S)")"
fill create-model-import-job.json
for attempt in 1 2 3 4 5 6; do
    if job="$(aws bedrock create-model-import-job --region "$REGION" --query jobArn --output text \
        --cli-input-json "file://$work/create-model-import-job.json" 2> "$work/error")"; then
        break
    fi
    # A new role is not known everywhere at once; another import may be running.
    if [ "$attempt" = 6 ] || ! grep -qiE 'role|ServiceQuota|Throttl' "$work/error"; then
        cat "$work/error" >&2
        exit 1
    fi
    say "not accepted yet, once more in $RETRY_SECONDS seconds: $(tail -n 1 "$work/error")"
    sleep "$RETRY_SECONDS"
done

say "import job $job"
while true; do
    status="$(aws bedrock get-model-import-job --region "$REGION" --job-identifier "$job" --query status --output text)"
    case "$status" in
        Completed) break ;;
        Failed)
            aws bedrock get-model-import-job --region "$REGION" --job-identifier "$job" \
                --query failureMessage --output text >&2
            exit 1
            ;;
        *) say "$(date +%T) $status" ;;
    esac
    sleep "$POLL_SECONDS"
done
aws bedrock get-model-import-job --region "$REGION" --job-identifier "$job" --query importedModelArn --output text
