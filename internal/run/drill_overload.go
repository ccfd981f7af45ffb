package run

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// overloaders is how many requests for lists are always under way: more than the API server's fair queuing gives to one kind of clients.
const overloaders = 100

// refusedPause is how long one of them waits after an API server that is not there refused it.
const refusedPause = 100 * time.Millisecond

// overload is the load of clients that list everything again and again.
type overload struct {
	stop context.CancelFunc
	done sync.WaitGroup
}

// startOverload sends requests to one API server until stopped: by a caller that is gone, too, because they are its own.
func startOverload(c *spec.Cluster, config *rest.Config, to spec.Host) (*overload, error) {
	direct := rest.CopyConfig(config)
	// The certificates of all API servers are valid for the endpoint's name.
	direct.ServerName = hostconfig.EndpointHost(c)
	direct.Host, direct.Proxy = "https://"+net.JoinHostPort(to.Address, hostconfig.APIPort), host.Direct
	trust, err := rest.TLSConfigFor(direct)
	if err != nil {
		return nil, err
	}
	transport, err := rest.HTTPWrappersForConfig(direct, &http.Transport{TLSClientConfig: trust, Proxy: host.Direct, MaxIdleConnsPerHost: overloaders})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	o := &overload{stop: cancel}
	for range overloaders {
		o.done.Go(func() {
			for ctx.Err() == nil {
				// With a version of the resource, the API server would answer from its cache.
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, direct.Host+"/api/v1/configmaps", nil)
				if err != nil {
					return
				}
				if resp, err := transport.RoundTrip(req); err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					if err = errors.Join(err, resp.Body.Close()); err == nil {
						continue
					}
				}
				if pause(ctx, refusedPause) != nil {
					return
				}
			}
		})
	}
	return o, nil
}

// end ends the requests.
func (o *overload) end() {
	o.stop()
	o.done.Wait()
}
