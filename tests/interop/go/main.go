// A gRPC client in Go: it is told its calls as lines of JSON, and answers each with a line.
//
// It has no generated code: the schema is a descriptor set, and messages are dynamic.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// A task is one call that is asked for.
type task struct {
	Method      string            `json:"method"`
	Requests    []json.RawMessage `json:"requests"`
	Metadata    map[string]string `json:"metadata"`
	TimeoutMS   int               `json:"timeout_ms"`
	Lockstep    bool              `json:"lockstep"`
	HalfClose   bool              `json:"half_close"`
	CancelAfter int               `json:"cancel_after"`
}

// An outcome is what came of it.
type outcome struct {
	Messages []json.RawMessage `json:"messages"`
	Code     int               `json:"code"`
	Message  string            `json:"message"`
	Details  string            `json:"details"`
	Trailers map[string]string `json:"trailers"`
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: interop DESCRIPTOR_SET SERVICE TARGET")
	}
	service, err := findService(os.Args[1], os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.NewClient(
		os.Args[3],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	lines := bufio.NewReader(os.Stdin)
	answers := json.NewEncoder(os.Stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return
		}
		var wanted task
		if err := json.Unmarshal(line, &wanted); err != nil {
			log.Fatal(err)
		}
		if err := answers.Encode(perform(connection, service, &wanted)); err != nil {
			log.Fatal(err)
		}
	}
}

func findService(path, name string) (protoreflect.ServiceDescriptor, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil {
		return nil, err
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, err
	}
	found, err := files.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil, err
	}
	return found.(protoreflect.ServiceDescriptor), nil
}

func perform(connection *grpc.ClientConn, service protoreflect.ServiceDescriptor, wanted *task) outcome {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if wanted.TimeoutMS > 0 {
		timeout := time.Duration(wanted.TimeoutMS) * time.Millisecond
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	for name, value := range wanted.Metadata {
		if strings.HasSuffix(name, "-bin") {
			raw, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				log.Fatal(err)
			}
			value = string(raw)
		}
		ctx = metadata.AppendToOutgoingContext(ctx, name, value)
	}
	method := service.Methods().ByName(protoreflect.Name(wanted.Method))
	result := outcome{Messages: []json.RawMessage{}, Trailers: map[string]string{}}
	var trailers metadata.MD
	var err error
	if method.IsStreamingClient() || method.IsStreamingServer() {
		trailers, err = stream(ctx, cancel, connection, method, wanted, &result)
	} else {
		request := parse(method, wanted.Requests[0])
		response := dynamicpb.NewMessage(method.Output())
		err = connection.Invoke(ctx, path(method), request, response, grpc.Trailer(&trailers))
		if err == nil {
			result.add(response)
		}
	}
	for name, values := range trailers {
		if strings.HasSuffix(name, "-bin") {
			result.Trailers[name] = base64.StdEncoding.EncodeToString([]byte(values[0]))
		} else {
			result.Trailers[name] = values[0]
		}
	}
	delete(result.Trailers, "grpc-status-details-bin")
	got := status.Convert(err)
	result.Code, result.Message = int(got.Code()), got.Message()
	if len(got.Details()) > 0 {
		raw, err := proto.Marshal(got.Proto())
		if err != nil {
			log.Fatal(err)
		}
		result.Details = base64.StdEncoding.EncodeToString(raw)
	}
	return result
}

func stream(
	ctx context.Context,
	cancel context.CancelFunc,
	connection *grpc.ClientConn,
	method protoreflect.MethodDescriptor,
	wanted *task,
	result *outcome,
) (metadata.MD, error) {
	shape := grpc.StreamDesc{
		ClientStreams: method.IsStreamingClient(),
		ServerStreams: method.IsStreamingServer(),
	}
	call, err := connection.NewStream(ctx, &shape, path(method))
	if err != nil {
		return nil, err
	}
	receive := func() error {
		response := dynamicpb.NewMessage(method.Output())
		if err := call.RecvMsg(response); err != nil {
			return err
		}
		result.add(response)
		if len(result.Messages) == wanted.CancelAfter {
			cancel()
		}
		return nil
	}
	for _, text := range wanted.Requests {
		if err := call.SendMsg(parse(method, text)); err != nil {
			break // What went wrong is what receiving says.
		}
		if wanted.Lockstep {
			if err := receive(); err != nil {
				return call.Trailer(), err
			}
		}
	}
	if wanted.HalfClose {
		_ = call.CloseSend()
	}
	for {
		if err := receive(); errors.Is(err, io.EOF) {
			return call.Trailer(), nil
		} else if err != nil {
			return call.Trailer(), err
		} else if !method.IsStreamingServer() {
			return call.Trailer(), nil
		}
	}
}

func path(method protoreflect.MethodDescriptor) string {
	return "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
}

func parse(method protoreflect.MethodDescriptor, text []byte) proto.Message {
	message := dynamicpb.NewMessage(method.Input())
	if err := protojson.Unmarshal(text, message); err != nil {
		log.Fatal(err)
	}
	return message
}

func (result *outcome) add(message proto.Message) {
	text, err := protojson.Marshal(message)
	if err != nil {
		log.Fatal(err)
	}
	result.Messages = append(result.Messages, text)
}
