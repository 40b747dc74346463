// Package onnxpb holds the protocol buffer types of the ONNX format, generated
// from the official onnx.proto as Debian 12 packages it (libonnx-dev).
// generate.sh beside this file makes onnx.pb.go anew.
package onnxpb

//go:generate ./generate.sh
