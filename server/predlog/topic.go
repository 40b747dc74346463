package predlog

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"gocloud.dev/pubsub"
	"gocloud.dev/pubsub/gcppubsub"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// CheckTopic returns an error if no topic can have the URL. It doesn't connect to anything, so it
// needs no credentials.
func CheckTopic(ref string) error {
	u, err := url.Parse(ref)
	if err != nil {
		return fmt.Errorf("invalid topic %.100q: %s", ref, topicForm)
	}
	if !pubsub.DefaultURLMux().ValidTopicScheme(u.Scheme) {
		return fmt.Errorf("invalid topic %.100q: unknown scheme: %s", u.Redacted(), topicForm)
	}
	if u.Scheme != gcppubsub.Scheme {
		return nil
	}
	names := strings.Split(u.Host+u.Path, "/")
	long := len(names) == 4 && names[0] == "projects" && names[2] == "topics"
	short := len(names) == 2 && names[0] != "projects" // gcppubsub://PROJECT/TOPIC
	if !long && !short || slices.Contains(names, "") {
		return fmt.Errorf("invalid topic %.100q: %s", u.Redacted(), topicForm)
	}
	// A connection that is never used.
	conn, err := grpc.NewClient("passthrough:///unused", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	opener := &gcppubsub.URLOpener{Conn: conn}
	topic, err := opener.OpenTopicURL(context.Background(), u)
	if err != nil {
		return fmt.Errorf("invalid topic %.100q: unknown or invalid parameters: %s", u.Redacted(), topicForm)
	}
	return topic.Shutdown(context.Background())
}

const topicForm = "expected gcppubsub://projects/PROJECT/topics/TOPIC"
