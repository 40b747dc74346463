#!/bin/sh
# build.sh MODULE TOOL OUT builds a command-line tool that tools/MODULE pins and writes the program to OUT.
#
# The Makefile and the pipeline call it. It's a separate file so that editing the Makefile doesn't make the
# pipeline build all tools again.
set -eu
module=$1 tool=$2 out=$3
case $out in /*) ;; *) out=$PWD/$out ;; esac
gobuild=$(cd "$(dirname "$0")" && pwd)/gobuild.sh
cd "$(dirname "$0")/$module"
package=$(go list -f '{{.ImportPath}}' tool | grep -E "/$tool(/v[0-9]+)?(/cmd/$tool)?\$" || true)
if [ -z "$package" ]; then
	echo "error: tools/$module/go.mod has no tool named $tool" >&2
	exit 1
fi
flags=
case $module in
# The Pulumi CLI and its language hosts learn their version from the linker.
pulumi*) flags="-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=$(go list -f '{{.Module.Version}}' "$package")" ;;
# Vale links grammars in C for 30 languages. We check few of them, and compiling them without optimization is faster.
vale) export CGO_CFLAGS=-O0 ;;
esac
echo "building $tool from source; this takes minutes the first time" >&2
"$gobuild" -ldflags "$flags" -o "$out" "$package"
