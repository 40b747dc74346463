// Command demo walks the whole path from nothing to a verdict with the built
// programs, as a user would: it prepares images, trains, evaluates, starts
// the server, sends it one photograph-like and one generated image of the
// test split as PNG files, prints the two verdicts and stops the server. Told to keep
// it, it says where the server's page is, and leaves it running until Ctrl-C.
//
// It ends with an error when a step fails or a verdict is wrong.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"fakeart/internal/imaging"
	"fakeart/internal/process"
	"fakeart/trainer/dataset"
)

func main() {
	var d demo
	flag.StringVar(&d.trainer, "trainer", "bin/trainer", "the program that trains")
	flag.StringVar(&d.server, "server", "bin/server", "the program that serves")
	flag.StringVar(&d.dir, "dir", "runs/demo", "folder for data, run and images; those of an earlier demo are replaced")
	flag.BoolVar(&d.keep, "keep", false, "leave the server running at the end, until Ctrl-C")
	flag.Parse()
	d.out = os.Stdout

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := d.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// demo is one walk along the path.
type demo struct {
	trainer, server string // programs
	dir             string
	keep            bool
	out             io.Writer
}

func (d *demo) run(ctx context.Context) error {
	data, run := filepath.Join(d.dir, "data"), filepath.Join(d.dir, "run")
	model := filepath.Join(run, "model.onnx")
	if err := os.RemoveAll(run); err != nil {
		return err
	}
	steps := [][]string{
		{d.trainer, "data", "prepare", "dataset=synthetic", "dataset.dir=" + data},
		{d.trainer, "train", "experiment=smoke", "dataset=synthetic", "dataset.dir=" + data, "run.dir=" + run},
		{d.trainer, "evaluate", "--model", model, "--data", data, "--split", "test"},
	}
	for _, args := range steps {
		cmd := process.Command(ctx, d.out, args...)
		cmd.Stdout, cmd.Stderr = d.out, d.out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
	}
	return d.serve(ctx, model, data)
}

// serve starts the server on a free port, asks it about an image of each
// class and stops it.
func (d *demo) serve(ctx context.Context, model, data string) (err error) {
	test, manifest, err := dataset.Load(data, "test")
	if err != nil {
		return err
	}

	cmd := process.Command(ctx, d.out, d.server, "--model", model, "--addr", d.address(ctx), "--log-path", filepath.Join(d.dir, "predictions.db"), "--log-format=text")
	server, err := process.Start(ctx, cmd, d.out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	for label, class := range manifest.Classes {
		i := slices.Index(test.Labels, uint8(label))
		if i < 0 {
			return fmt.Errorf("%s: the test split has no image of class %s", data, class)
		}
		path := filepath.Join(d.dir, class+".png")
		if err := os.WriteFile(path, imaging.EncodePNG(imaging.ToImage(test.Image(i), imaging.Size)), 0o644); err != nil {
			return err
		}
		if err := d.ask(ctx, server.URL, path, class); err != nil {
			return err
		}
	}
	if !d.keep {
		return nil
	}
	fmt.Fprintf(d.out, "\nThe page is at %s/ until Ctrl-C.\n", server.URL)
	select {
	case <-ctx.Done():
		return nil
	case <-server.Done():
		return errors.New("the server ended by itself")
	}
}

// usualAddress is the server's own when it is not told another.
const usualAddress = "127.0.0.1:8080"

// address is where the server shall listen: a server that is kept at the usual address,
// if nobody else is there.
func (d *demo) address(ctx context.Context) string {
	if d.keep {
		if l, err := new(net.ListenConfig).Listen(ctx, "tcp", usualAddress); err == nil {
			_ = l.Close()
			return usualAddress
		}
	}
	return "127.0.0.1:0"
}

// ask sends the image in a form, as a browser would, and checks the verdict.
func (d *demo) ask(ctx context.Context, url, path, want string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("data", filepath.Base(path))
	if err != nil {
		return err
	}
	if _, err := part.Write(data); err != nil {
		return err
	}
	if err := form.Close(); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\n$ curl -F data=@%s %s/predict\n", path, url)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/predict", &body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", form.FormDataContentType())
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", url, err)
	}
	fmt.Fprintf(d.out, "%s\n", bytes.TrimSpace(answer))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", response.Status)
	}
	var verdict struct {
		Label       string  `json:"label"`
		Probability float64 `json:"probability"`
	}
	if err := json.Unmarshal(answer, &verdict); err != nil {
		return fmt.Errorf("read verdict: %w", err)
	}
	if verdict.Label != want {
		return fmt.Errorf("%s is %s, but the verdict is %s", path, want, verdict.Label)
	}
	fmt.Fprintf(d.out, "→ %s is %s: right (probability of FAKE %.3f)\n", path, verdict.Label, verdict.Probability)
	return nil
}
