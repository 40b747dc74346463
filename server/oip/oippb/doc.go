// Package oippb holds the protocol buffer types of the Open Inference Protocol over gRPC. generate.sh
// generates open_inference.pb.go from open_inference.proto.
package oippb

//go:generate ./generate.sh
