package balancer

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// A load balancer can have the virtual IP and reach no API server that is ready: the other load balancers hear it through a network of their own, or
// something between it and the API servers drops packets. keepalived does not notice, and moving the address would be wrong if
// nobody reaches them. So the watchdog asks the other load balancers, and keeps the address away from this host only while one of them serves.
const (
	cutOffPace = 500 * time.Millisecond
	// cutOffLooks is how many looks in a row must find that this host reaches none, until others are asked: they take longer than API servers that
	// become ready after an election are apart (see notReadyAfter).
	cutOffLooks = 4
	// othersServe is how many looks in a row must find another load balancer that serves, and cutOffEnds how many must find none, or this
	// host to reach an API server, until it may have the address again.
	othersServe = 3
	cutOffEnds  = 3
	// servePatience is how long another load balancer may take to answer.
	servePatience = time.Second
)

// cutOff is what is known about that, as numbers of looks in a row.
type cutOff struct {
	is     atomic.Bool
	none   int // that found no API server
	serves int // that found another load balancer to serve meanwhile
	ends   int // that found no reason for standing aside
}

// reachesNone says that no API server is of use to this host: each accepts no connections, or says in time that it is not ready, as one does that is
// cut off from etcd's leader as well. One that is slow may still be of use.
func reachesNone(rows []stats) bool {
	seen := sightings(rows, nil)
	return len(seen) > 0 && !slices.ContainsFunc(seen, func(s sighting) bool {
		return s.up || !s.clear() && slices.ContainsFunc(rows, func(r stats) bool {
			return r["pxname"] == hostconfig.PoolListening && r["svname"] == s.name && r.up()
		})
	})
}

// look notes whether this host reaches no API server. It reports whether the other load balancers have to be asked.
func (c *cutOff) look(none bool) (ask bool) {
	if c.none++; !none {
		c.none = 0
	}
	return c.none >= cutOffLooks
}

// judge notes whether another load balancer serves while this host reaches no API server, and reports whether that changes anything.
func (c *cutOff) judge(reason bool) (changed bool) {
	if reason {
		c.serves, c.ends = c.serves+1, 0
	} else {
		c.serves, c.ends = 0, c.ends+1
	}
	is := c.is.Load()
	if !is && c.serves >= othersServe || is && c.ends >= cutOffEnds {
		c.is.Store(!is)
		return true
	}
	return false
}

// watch looks again and again, until ctx ends. Without a new answer of this host's HAProxy nothing is known, and nothing changes.
func (c *cutOff) watch(ctx context.Context, logger *log.Logger, rows func() ([]stats, error), serving func(context.Context) string) {
	for wait(ctx, cutOffPace) {
		seen, err := rows()
		if err != nil {
			continue
		}
		peer := ""
		if c.look(reachesNone(seen)) {
			peer = serving(ctx)
		}
		if ctx.Err() != nil || !c.judge(peer != "") {
			continue
		}
		if c.is.Load() {
			logger.Printf("this host reaches no API server that is ready, and the load balancer with the address %s does: this host must not have the virtual IP. See whether a network or a firewall between this host and the API servers drops packets", peer)
		} else {
			logger.Print("this host reaches an API server that is ready again, or no other load balancer does: it may have the virtual IP")
		}
	}
}

// serving is the address of another load balancer that has an API server which is ready; empty if none says so. HAProxy of a load balancer without other roles passes the
// question on; where control planes are the load balancers, HAProxy listens at the virtual IP only, and the API server itself answers.
func serving(ctx context.Context) string {
	keepalived := cmp.Or(system.ReadTrimmed(hostconfig.KeepalivedRunning), system.ReadTrimmed(hostconfig.KeepalivedFile))
	names := map[string][]string{} // by port
	for _, text := range hostconfig.Served(system.ReadTrimmed(hostconfig.HAProxyFile)) {
		if e, err := hostconfig.ParseServed(text); err == nil {
			names[e.Port] = append(names[e.Port], e.Name)
			names[hostconfig.APIPort] = append(names[hostconfig.APIPort], e.Name)
		}
	}
	ca, err := os.ReadFile(hostconfig.HAProxyCA)
	if err != nil {
		return ""
	}
	return firstServing(ctx, peers(keepalived), names, ca)
}

// firstServing asks each peer at each port, with the names that its certificate may have, all at the same time.
func firstServing(ctx context.Context, peers []string, names map[string][]string, ca []byte) string {
	ctx, cancel := context.WithTimeout(ctx, servePatience)
	defer cancel()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	answers := make(chan string)
	asked := 0
	for _, peer := range peers {
		for port, all := range names {
			for _, name := range all {
				asked++
				go func() {
					who := peer
					if err := ready(ctx, net.JoinHostPort(peer, port), name, roots); err != nil {
						who = ""
					}
					answers <- who
				}()
			}
		}
	}
	found := ""
	for range asked {
		if who := <-answers; who != "" && found == "" {
			found = who
			cancel()
		}
	}
	return found
}

// ready asks whoever serves the API at an address whether it is ready, its connection to etcd included.
func ready(ctx context.Context, address, name string, roots *x509.CertPool) error {
	client := http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: name},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, address)
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("an API server does not redirect this") },
	}
	host := name
	if strings.Contains(name, ":") {
		host = "[" + name + "]"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+hostconfig.ReadyWithEtcd, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", address, resp.Status)
	}
	return nil
}
