package inspect

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpproxy"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/system"
)

// repositoryPatience is how long a package repository may take to answer, once and once again.
const repositoryPatience = 5 * time.Second

// repositoryPause is the pause before the second attempt, because an immediate one would fail again.
const repositoryPause = time.Second

// repositories tests the servers from which the host's package manager downloads. Only apt-get can list them. It lists what
// an update would download, which it reads from its configuration alone. `apt-get indextargets` would build its whole cache of
// packages first where none is stored, and list only what was downloaded before.
func repositories(ctx context.Context) []facts.Repository {
	// If one entry cannot be used, the command fails, and the others are in its output nevertheless.
	list, _ := system.Output(ctx, "apt-get", "update", "--print-uris")
	addresses := repositoryAddresses(string(list))
	if len(addresses) == 0 {
		return nil
	}
	proxies, _ := system.Output(ctx, "apt-config", "dump", "--format", "%f=%v%n", "Acquire")
	settings := aptSettings(string(proxies))
	if detectsProxy(settings) {
		return nil // a program on the host selects the proxy, perhaps another one for each address
	}
	return tryRepositories(ctx, addresses, aptProxy(settings, system.Proxies()), repositoryPatience)
}

// repositoryAddresses reads the repositories from apt's list of the files of an update. Each line starts with the quoted
// address of a file. Every repository has one named InRelease: in dists/SUITE, or next to the packages if there are no suites.
func repositoryAddresses(list string) []string {
	var out []string
	for line := range strings.Lines(list) {
		quoted, _, _ := strings.Cut(line, " ")
		release, isRelease := strings.CutSuffix(strings.Trim(quoted, "'"), "/InRelease")
		if !isRelease {
			continue
		}
		if i := strings.LastIndex(release, "/dists/"); i >= 0 {
			release = release[:i]
		}
		if u, err := url.Parse(release); err == nil && u.User != nil { // a login
			u.User = nil
			release = u.String()
		}
		out = append(out, release+"/")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// aptSettings reads apt's configuration as it prints it. The names of its settings are in lower case.
func aptSettings(config string) map[string]string {
	settings := map[string]string{}
	for line := range strings.Lines(config) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		settings[strings.ToLower(name)] = value
	}
	return settings
}

// detectsProxy reports whether apt asks a program for its proxy. The setting has two spellings.
func detectsProxy(settings map[string]string) bool {
	for _, scheme := range []string{"http", "https"} {
		for _, name := range []string{"proxy-auto-detect", "proxyautodetect"} {
			if settings["acquire::"+scheme+"::"+name] != "" {
				return true
			}
		}
	}
	return false
}

// aptProxy is the proxy in apt's configuration; without one, the session's proxy settings apply.
func aptProxy(settings map[string]string, session []string) func(*http.Request) (*url.URL, error) {
	fromSession := proxyOf(session)
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
		return fromSession(r.URL)
	}
}

// proxyOf reads variables such as https_proxy as most programs do.
func proxyOf(variables []string) func(*url.URL) (*url.URL, error) {
	var c httpproxy.Config
	for _, v := range variables {
		name, value, _ := strings.Cut(v, "=")
		switch strings.ToLower(name) {
		case "http_proxy":
			c.HTTPProxy = value
		case "https_proxy":
			c.HTTPSProxy = value
		case "no_proxy":
			c.NoProxy = value
		}
	}
	return c.ProxyFunc()
}

// errUntried says that a repository cannot be tested without revealing a secret.
var errUntried = errors.New("the proxy takes a password over TLS")

// discreet sends a proxy's password to no server that was not verified. Over plain HTTP, apt itself sends it to any server.
func discreet(proxy func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	return func(r *http.Request) (*url.URL, error) {
		if proxy == nil {
			return nil, nil
		}
		u, err := proxy(r)
		if err == nil && u != nil && u.Scheme == "https" && u.User != nil {
			return nil, errUntried
		}
		return u, err
	}
}

// tryRepositories sends a request to each server, and another one if that fails. Any answer shows that the server is
// reachable.
func tryRepositories(ctx context.Context, addresses []string, proxy func(*http.Request) (*url.URL, error), patience time.Duration) []facts.Repository {
	// Only the path is tested. Certificates are not verified, because apt's own configuration determines which CA is trusted
	// for each host. No secret is sent, and the answer is not used.
	client := &http.Client{Timeout: patience, Transport: &http.Transport{Proxy: discreet(proxy), DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, //nolint:gosec // see above
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	out := make([]facts.Repository, len(addresses))
	var wg sync.WaitGroup
	for i, address := range addresses {
		out[i].Address = address
		if !strings.HasPrefix(address, "http:") && !strings.HasPrefix(address, "https:") {
			continue // a directory or a disc, which is not on the network
		}
		wg.Go(func() {
			var err error
			for try := range 2 {
				if try > 0 {
					select {
					case <-ctx.Done():
					case <-time.After(repositoryPause):
					}
				}
				if err = head(ctx, client, address); err == nil || errors.Is(err, errUntried) {
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
	r.URL.User = nil // a login for a server that was not verified
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
