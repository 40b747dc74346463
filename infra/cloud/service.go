package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"time"
)

// predict waits until the service is ready, sends it a test image, and returns the prediction as
// text. It doesn't call a service that rejects requests from the internet.
func (s *session) predict(ctx context.Context, url string) (prediction string, err error) {
	if ingress := s.stack.get("fakeart:ingress"); ingress != "" && ingress != "all" {
		return "not tested: the service accepts requests from the internet only with fakeart:ingress all, but it is " + ingress, nil
	}
	if s.stack.get("fakeart:domain") != "" {
		// The domain's DNS records and certificate may take a day.
		if url, err = s.cloud.serviceURL(ctx, s.stack.region(), s.stack.prefix()+"-server"); err != nil {
			return "", err
		}
	}
	url = strings.TrimSuffix(url, "/")
	s.printf("\nWaiting until %s is ready\n", url)
	const tries = 60
	for i := 1; ; i++ {
		_, err := s.request(ctx, http.MethodGet, url, "/v2/health/ready", "", nil)
		if err == nil {
			break
		}
		if i == tries {
			return "", fmt.Errorf("the service isn't ready after %d tries: %w\nhint: gcloud run services logs read %s-server --region %s --project %s --limit 50",
				tries, err, s.stack.prefix(), s.stack.region(), s.stack.project())
		}
		if err := s.wait(ctx, 5*time.Second); err != nil {
			return "", err
		}
	}
	body, kind, err := form()
	if err != nil {
		return "", err
	}
	response, err := s.request(ctx, http.MethodPost, url, "/predict", kind, body)
	if err != nil {
		return "", err
	}
	var p struct {
		Label       string   `json:"label"`
		Probability *float64 `json:"probability"`
	}
	if err := json.Unmarshal(response, &p); err != nil || p.Label == "" || p.Probability == nil {
		return "", fmt.Errorf("%s/predict returned %.200q, which isn't a prediction", url, response)
	}
	return fmt.Sprintf("%s (probability %.3f) for a generated test image", p.Label, *p.Probability), nil
}

// request sends a request to the service and returns the body of a 200 response. Other statuses are
// errors. For a private service, the request carries the account's identity token.
func (s *session) request(ctx context.Context, method, url, path, kind string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	if !s.stack.is("fakeart:public", false) {
		token, err := s.cloud.identityToken(ctx, url)
		if err != nil {
			return nil, fmt.Errorf("get an identity token for %s: %w", url, err)
		}
		// The header Authorization is reserved for the server's admin token.
		r.Header.Set("X-Serverless-Authorization", "Bearer "+token)
	}
	response, err := (&http.Client{Transport: s.base}).Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("%s %s%s: %w", method, url, path, err)
	}
	switch response.StatusCode {
	case http.StatusOK:
		return content, nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, fmt.Errorf("%s %s%s: %s: %s may not call the service\nhint: gcloud run services add-iam-policy-binding %s-server --region %s --project %s --member %s --role roles/run.invoker",
			method, url, path, response.Status, s.account(), s.stack.prefix(), s.stack.region(), s.stack.project(), s.cloud.member())
	}
	return nil, errors.New(strings.TrimSpace(fmt.Sprintf("%s %s%s: %s: %.200s", method, url, path, response.Status, bytes.TrimSpace(content))))
}

// form returns a multipart form with a generated test image, and its content type.
func form() (body []byte, kind string, err error) {
	img := image.NewNRGBA(image.Rect(0, 0, 32, 32))
	for y := range 32 {
		for x := range 32 {
			img.Set(x, y, color.NRGBA{R: uint8(8 * x), G: uint8(8 * y), B: uint8(4 * (x + y)), A: 255})
		}
	}
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	part, err := w.CreateFormFile("data", "test.png")
	if err == nil {
		err = png.Encode(part, img)
	}
	if err == nil {
		err = w.Close()
	}
	return b.Bytes(), w.FormDataContentType(), err
}
