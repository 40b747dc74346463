#!/bin/sh
# Writes onnx.pb.go from the official onnx.proto of Debian's libonnx-dev.
# Needs: apt-get install libonnx-dev protobuf-compiler
set -eu
cd "$(dirname "$0")"
bin=$(mktemp -d)
trap 'rm -r "$bin"' EXIT
GOBIN=$bin go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
protoc --plugin="$bin/protoc-gen-go" --proto_path=/usr/include/onnx \
	--go_out=. --go_opt=paths=source_relative \
	--go_opt=Monnx.proto=fakeart/internal/onnx/onnxpb onnx.proto
