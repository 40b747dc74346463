#!/bin/sh
# Writes open_inference.pb.go from open_inference.proto. Needs: Go, and Python 3 with venv for protoc.
set -eu
cd "$(dirname "$0")"
bin=$(mktemp -d)
trap 'rm -r "$bin"' EXIT
GOBIN=$bin go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
python3 -m venv "$bin/venv"
"$bin/venv/bin/pip" install --quiet grpcio-tools==1.76.0
"$bin/venv/bin/python" -m grpc_tools.protoc --plugin="$bin/protoc-gen-go" --proto_path=. \
	--go_out=. --go_opt=paths=source_relative \
	--go_opt=Mopen_inference.proto=fakeart/server/oip/oippb open_inference.proto
