//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// dashboards checks that `quorate dashboard` shows the cluster to whoever has the token and keeps nobody from changing it, and that --snapshot writes a page.
func dashboards(t *testing.T, c *cluster) {
	ctx := testContext(t)
	running, stop := context.WithCancel(ctx)
	defer stop()
	cmd := c.command(running, "dashboard", "-f", c.specFile(), "-o", "json", "--interval", "1s")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var at struct{ Cluster, URL, Link string }
	err = json.NewDecoder(out).Decode(&at)
	url, token, _ := strings.Cut(at.Link, "#token=")
	if err != nil || at.Cluster != c.name || url != at.URL || !strings.HasPrefix(url, "http://127.0.0.1:") || len(token) < 40 {
		t.Fatalf("%v: %+v: %s", err, at, said.String())
	}
	get := func(path, token string) (code int, body string) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatalf("%v: %s", err, said.String())
		}
		defer answer.Body.Close()
		data, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(data)
	}
	if code, body := get("", ""); code != http.StatusOK || strings.Contains(body, "cp-a") {
		t.Errorf("the page without a token: %d:\n%s", code, body)
	}
	for _, wrong := range []string{"", token[1:]} {
		if code, body := get("page", wrong); code != http.StatusUnauthorized || strings.Contains(body, "cp-a") {
			t.Errorf("with the token %q: %d: %s", wrong, code, body)
		}
	}
	// What the default cluster survives, what apply would do, and its hosts.
	wants := []string{"It survives the loss of 1 control plane, 1 etcd member, 1 load balancer, 1 zone.", "zone a", "kube-apiserver v1.", "etcd leader", "virtual IP", "Nothing to do: the cluster matches its spec.", "pki/apiserver.crt"}
	shows := func(page string) error {
		for _, want := range wants {
			if !strings.Contains(page, want) {
				return fmt.Errorf("the page does not have %q: %s", want, said.String())
			}
		}
		return nil
	}
	var page string
	eventually(t, ctx, "the dashboard shows the whole cluster", func() error {
		code, body := get("page", token)
		if page = body; code != http.StatusOK {
			return fmt.Errorf("%d: %s", code, body)
		}
		return shows(page)
	})
	c.must(t, ctx, "apply", "-f", c.specFile()) // it is in nobody's way: it holds no lease
	stop()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("after an interrupt: %v: %s", err, said.String())
	}

	file := filepath.Join(t.TempDir(), "ticket.html")
	eventually(t, ctx, "a snapshot shows the whole cluster", func() error {
		if r := c.run(ctx, "dashboard", "-f", c.specFile(), "--snapshot", file); r.code != 0 {
			return fmt.Errorf("%s", r)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		page = string(data)
		return shows(page)
	})
	if strings.Contains(page, "<script") || !strings.HasSuffix(page, "</html>\n") {
		t.Errorf("the snapshot is no page that needs nothing else: %s", page)
	}
	if err := os.WriteFile(filepath.Join(artifacts, "dashboard.html"), []byte(page), 0o644); err != nil {
		t.Error(err)
	}
	c.exits(t, ctx, 2, "dashboard", "-f", c.specFile(), "--listen", "0.0.0.0:8080")
}
