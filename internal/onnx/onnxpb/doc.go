// Package onnxpb holds the protocol buffer types of the ONNX format. generate.sh generates
// onnx.pb.go from the official onnx.proto in Debian 12's package libonnx-dev.
package onnxpb

//go:generate ./generate.sh
