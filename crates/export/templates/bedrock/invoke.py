#!/usr/bin/env python3
"""Asks the imported model: python3 invoke.py MODEL_ARN "..." (needs boto3). Waits where the model is cold."""
import json
import sys
import time

ATTEMPTS, SECONDS = 10, 15
CHAT = @CHAT@  # whether the model has a chat template


def body(text, chat=CHAT):
    if chat:
        return {"messages": [{"role": "user", "content": text}], "max_tokens": 256, "temperature": 0}
    return {"prompt": text, "max_tokens": 256, "temperature": 0}


def answer(response):
    choice = response["choices"][0]
    return choice["message"]["content"] if "message" in choice else choice["text"]


def invoke(client, model, text, sleep=time.sleep):
    for attempt in range(1, ATTEMPTS + 1):
        try:
            response = client.invoke_model(
                modelId=model, body=json.dumps(body(text)), contentType="application/json", accept="application/json"
            )
            return answer(json.loads(response["body"].read()))
        except Exception as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
            if code != "ModelNotReadyException" or attempt == ATTEMPTS:
                raise
            print(f"the model is being started, once more in {SECONDS} seconds ({attempt})", file=sys.stderr)
            sleep(SECONDS)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    import boto3
    from botocore.config import Config

    region = sys.argv[1].split(":")[3]
    # The client's own retries are too short for a cold start.
    runtime = boto3.client("bedrock-runtime", region_name=region, config=Config(retries={"total_max_attempts": 1}))
    print(invoke(runtime, sys.argv[1], sys.argv[2]))
