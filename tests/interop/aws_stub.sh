#!/usr/bin/env bash
# Stands in for the AWS CLI in platforms.py: logs what it is asked in $AWS_LOG, and answers as AWS does, a new role being
# unknown at first, and a job that takes a while and ends as $AWS_END says.
set -euo pipefail
log="$AWS_LOG"
for word in "$@"; do
    case "$word" in
        file://*) word="$word=$(tr -d ' \n' < "${word#file://}")" ;;
    esac
    printf '%s\t' "$word" >> "$log"
done
echo >> "$log"
count() { grep -c "$1" "$log" || true; }
case "$1 $2" in
    "sts get-caller-identity") echo 123456789012 ;;
    "iam get-role")
        [ "$(count 'iam	create-role')" -gt 0 ] || exit 254
        echo arn:aws:iam::123456789012:role/bedrock-model-import ;;
    "iam create-role") echo '{}' ;;
    "iam put-role-policy" | "s3 sync") ;;
    "bedrock create-model-import-job")
        if [ "$(count 'bedrock	create-model-import-job')" -lt 3 ]; then
            echo "An error occurred (ValidationException): The provided role ARN is invalid" >&2
            exit 254
        fi
        echo arn:aws:bedrock:us-east-1:123456789012:model-import-job/abc ;;
    "bedrock get-model-import-job")
        case "$*" in
            *"--query status"*) if [ "$(count 'query	status')" -lt 3 ]; then echo InProgress; else echo "$AWS_END"; fi ;;
            *importedModelArn*) echo arn:aws:bedrock:us-east-1:123456789012:imported-model/xyz ;;
            *failureMessage*) echo "Amazon Bedrock does not support the architecture." ;;
        esac ;;
    *) echo "unknown: $*" >&2; exit 1 ;;
esac
