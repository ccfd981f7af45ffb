package components

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/facts"
)

// readFile is os.ReadFile for files of which only the beginning can matter.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 1<<20))
}

// staticPod queries a static pod's program with the probe in its manifest, as the kubelet does.
func (a *attempt) staticPod(ctx context.Context, name string) facts.Answer {
	path := manifests + "/" + name + ".yaml"
	text, err := readFile(a.path(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return facts.Answer{Problem: "its manifest " + path + " is missing"}
	case err != nil:
		return facts.Answer{Unknown: "its manifest could not be read: " + err.Error()}
	case len(strings.TrimSpace(string(text))) == 0:
		return facts.Answer{Problem: "its manifest " + path + " is empty"}
	}
	var pod corev1.Pod
	if err := yaml.Unmarshal(text, &pod); err != nil {
		return facts.Answer{Problem: "its manifest " + path + " is damaged: " + err.Error()}
	}
	url, err := probeOf(pod)
	if err != nil {
		return facts.Answer{Unknown: "its manifest " + path + " does not say how to query it: " + err.Error()}
	}
	return get(ctx, url)
}

// probeOf is the URL that tells whether the program of a pod in the host's network is ready or, if it has no such, alive.
func probeOf(pod corev1.Pod) (string, error) {
	if len(pod.Spec.Containers) == 0 {
		return "", errors.New("it has no container")
	}
	c := pod.Spec.Containers[0]
	for _, p := range []*corev1.Probe{c.ReadinessProbe, c.LivenessProbe} {
		if p == nil || p.HTTPGet == nil {
			continue
		}
		port := int32(p.HTTPGet.Port.IntValue())
		if p.HTTPGet.Port.Type == intstr.String {
			for _, named := range c.Ports {
				if named.Name == p.HTTPGet.Port.StrVal {
					port = named.ContainerPort
				}
			}
		}
		if port == 0 {
			return "", fmt.Errorf("the port %s of its probe is not known", &p.HTTPGet.Port)
		}
		scheme := strings.ToLower(string(p.HTTPGet.Scheme))
		if scheme == "" {
			scheme = "http"
		}
		return scheme + "://" + net.JoinHostPort(loopback(p.HTTPGet.Host), strconv.Itoa(int(port))) + p.HTTPGet.Path, nil
	}
	return "", errors.New("it has no probe")
}

// get queries the health of a program on this host.
func get(ctx context.Context, url string) facts.Answer {
	answer, _ := getStatus(ctx, url)
	return answer
}

func getStatus(ctx context.Context, url string) (facts.Answer, int) {
	// These programs sign their own certificates, and the connection is to this host's loopback. Proxies are not used.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true} //nolint:gosec // as above
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return facts.Answer{Unknown: err.Error()}, 0
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return failed(ctx, req.URL.Host, err), 0
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	switch {
	case ctx.Err() != nil:
		// A program that hangs may end the request, with a success, only because the connection is being closed.
		return failed(ctx, req.URL.Host, cmp.Or(err, ctx.Err())), resp.StatusCode
	case resp.StatusCode == http.StatusOK:
		return facts.Answer{OK: true}, resp.StatusCode
	}
	return facts.Answer{Problem: strings.TrimSuffix(fmt.Sprintf("%s answers %s: %s", url, resp.Status, complaint(string(body))), ": ")}, resp.StatusCode
}

// complaint is the part of a health report about failed checks. Kubernetes programs list every check and mark those that fail.
func complaint(body string) string {
	var failed []string
	for line := range strings.Lines(body) {
		if check, ok := strings.CutPrefix(strings.TrimSpace(line), "[-]"); ok {
			failed = append(failed, strings.TrimSuffix(check, ": reason withheld"))
		}
	}
	if len(failed) > 0 {
		return strings.Join(failed, ", ")
	}
	body = strings.TrimSpace(body)
	if len(body) > 300 {
		body = body[:300] + "…"
	}
	return body
}

// failed is the result for a program that did not answer. A refused or lost connection and silence are problems of the
// program; any other failure before there was a connection is this host's, and says nothing about the program.
func failed(ctx context.Context, address string, err error) facts.Answer {
	var op *net.OpError
	var timeout net.Error
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return facts.Answer{Unknown: context.Cause(ctx).Error()}
	case ctx.Err() != nil:
		return facts.Answer{Problem: address + ": " + context.Cause(ctx).Error()}
	case errors.Is(err, syscall.ECONNREFUSED):
		return facts.Answer{Problem: "it does not run: nothing listens on " + address}
	case errors.As(err, &timeout) && timeout.Timeout():
		return facts.Answer{Problem: address + " did not answer in time"}
	case errors.As(err, &op) && op.Op == "dial":
		return facts.Answer{Unknown: err.Error()}
	}
	return facts.Answer{Problem: address + ": " + err.Error()}
}
