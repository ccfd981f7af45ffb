package node

import (
	"context"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"quorate.dev/quorate/internal/facts"
)

// repositoryPatience is how long a package repository may take to answer, once and once again.
const repositoryPatience = 5 * time.Second

// repositories tries what the host's package manager would download from. Only apt-get can be asked where that is.
func repositories(ctx context.Context) []facts.Repository {
	list, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)").Output()
	if err != nil {
		return nil
	}
	proxies, _ := exec.CommandContext(ctx, "apt-config", "dump", "--format", "%f=%v%n", "Acquire").Output()
	addresses := strings.Fields(string(list))
	slices.Sort(addresses)
	return tryRepositories(ctx, slices.Compact(addresses), aptProxy(string(proxies)), repositoryPatience)
}

// aptProxy reads apt's own proxies from its configuration; without one there, those of the environment count.
func aptProxy(config string) func(*http.Request) (*url.URL, error) {
	settings := map[string]string{}
	for line := range strings.Lines(config) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		settings[strings.ToLower(name)] = value
	}
	return func(r *http.Request) (*url.URL, error) {
		for _, name := range []string{r.URL.Scheme + "::proxy::" + r.URL.Hostname(), r.URL.Scheme + "::proxy", "http::proxy"} {
			switch proxy := settings["acquire::"+name]; proxy {
			case "":
			case "DIRECT", "false":
				return nil, nil
			default:
				return url.Parse(proxy)
			}
		}
		return http.ProxyFromEnvironment(r)
	}
}

// tryRepositories asks each server once, and once more where that failed. Any answer will do: it is reached.
func tryRepositories(ctx context.Context, addresses []string, proxy func(*http.Request) (*url.URL, error), patience time.Duration) []facts.Repository {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{Proxy: proxy, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	out := make([]facts.Repository, len(addresses))
	var wg sync.WaitGroup
	for i, address := range addresses {
		out[i].Address = address
		if !strings.HasPrefix(address, "http:") && !strings.HasPrefix(address, "https:") {
			continue // a folder, a disc: nothing that could be out of reach
		}
		wg.Go(func() {
			var err error
			for range 2 {
				if err = head(ctx, client, address); err == nil {
					return
				}
			}
			out[i].Error = err.Error()
		})
	}
	wg.Wait()
	return out
}

func head(ctx context.Context, client *http.Client, address string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, address, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
