//go:build lab

// Package balancers runs real HAProxy, keepalived, and the watchdog in machines of a lab, in front of servers that behave
// like API servers, and breaks them. Run it with `go test -tags lab ./test/balancers`;
// HAPROXY and KEEPALIVED may name programs of other releases.
package balancers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/balancer"
	hostfault "quorate.dev/quorate/internal/hostside/fault"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/hostside/reach"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// The test binary is also the program that runs in the machines: as quorate's host side, as an API server, and as clients.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err := inMachine(ctx, os.Args[1], os.Args[2:])
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func inMachine(ctx context.Context, command string, args []string) error {
	switch command {
	case "host": // as `quorate host`, which is what units run
		if args[0] != "watchdog" {
			return hostfault.Command(ctx, args[0], args[1:])
		}
		return balancer.Watchdog(ctx)
	case "serve":
		return serveAPI(ctx, args[0])
	case "clients":
		return clients(ctx, args[0], os.Stdout)
	case "configure":
		return onHost(ctx, configureHost)
	case "read":
		return onHost(ctx, balancer.Read.On)
	case "who-has":
		return onHost(ctx, balancer.WhoHas.On)
	case "set-pool":
		return onHost(ctx, permitted(balancer.SetPool))
	case "stand-aside":
		return onHost(ctx, permitted(balancer.StandAside))
	case "inject-fault":
		return onHost(ctx, permitted(hostfault.Inject))
	case "heal-faults":
		return onHost(ctx, hostfault.Heal.On)
	case "faults":
		return onHost(ctx, hostfault.Active.On)
	case "hand-over":
		return onHost(ctx, permitted(balancer.HandOver))
	case "wait": // for as long as standard input is open
		return wait(args[0])
	case "listen": // for as long as standard input is open
		return listenVRRP(ctx, args[0])
	case "dial":
		return onHost(ctx, reach.DialAll.On)
	case "hold":
		return hold(ctx, args[0])
	case "get":
		return get(ctx, args[0])
	}
	return fmt.Errorf("unknown command %q", command)
}

// permit allows everything: there is no cluster in these tests that a change could harm.
type permit struct{}

func (permit) Covers(string) error { return nil }

func permitted[In, Out any](op host.Change[In, Out]) func(context.Context, *host.Conn, In) (Out, error) {
	return func(ctx context.Context, conn *host.Conn, in In) (Out, error) {
		return op.Make(ctx, conn, permit{}, in)
	}
}

// onHost runs an operation of the host side, from standard input to standard output.
func onHost[In, Out any](ctx context.Context, run func(context.Context, *host.Conn, In) (Out, error)) error {
	conn, err := host.Local(ctx, "here")
	if err != nil {
		return err
	}
	defer conn.Close()
	var in In
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		return err
	}
	out, err := run(ctx, conn, in)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// configuration is what a load balancer is configured from.
type configuration struct {
	Cluster spec.Cluster
	Name    string // of the host
	CA      string
	Manner  manner
	Edit    [2]string // replaces a text in HAProxy's or keepalived's configuration
}

func configureHost(ctx context.Context, conn *host.Conn, c configuration) ([]string, error) {
	h, _ := c.Cluster.Host(c.Name)
	f := &facts.Facts{Addresses: system.Addresses()}
	d := hostconfig.Balancer(&c.Cluster, h, f, c.CA)
	at, _ := f.Interface(h.Address)
	switch c.Manner {
	case documented:
		d = documentedBalancer(&c.Cluster, h, at.Interface)
	case byHand:
		d = hostconfig.PlainBalancer(&c.Cluster, h)
		for i := range d.Files {
			d.Files[i].Content = strings.NewReplacer(hostconfig.InterfacePlaceholder, at.Interface, hostconfig.PrefixPlaceholder, fmt.Sprint(at.Prefix)).Replace(d.Files[i].Content)
			d.Files[i].Restart = []string{"haproxy.service", "keepalived.service"}
		}
	}
	for i := range d.Files {
		if c.Edit[0] != "" {
			d.Files[i].Content = strings.ReplaceAll(d.Files[i].Content, c.Edit[0], c.Edit[1])
		}
	}
	return files.Reconfigure.Make(ctx, conn, permit{}, d)
}

func listenVRRP(ctx context.Context, address string) error {
	conn, err := host.Local(ctx, "here")
	if err != nil {
		return err
	}
	defer conn.Close()
	l, err := reach.Listen.On(ctx, conn, reach.ListenRequest{Name: "listener", Address: address, VRRP: true})
	if err != nil || !l.VRRP {
		return fmt.Errorf("listening: %+v, %v", l, err)
	}
	fmt.Println("listening")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// hold opens idle connections to an address until HAProxy refuses or closes one, and returns how many stayed open.
func hold(ctx context.Context, address string) error {
	var conns []net.Conn
	for len(conns) < 1500 {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			break
		}
		conns = append(conns, c)
	}
	var open atomic.Int64
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			c.SetReadDeadline(time.Now().Add(2 * time.Second))
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				open.Add(1)
			}
		})
	}
	wg.Wait()
	fmt.Println(open.Load())
	return nil
}

// wait opens a connection every 50 ms until standard input ends, and keeps them all, as clients do that wait for events. It prints how many
// it opened, and how many of those look open and are not.
func wait(address string) error {
	over := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin) //nolint:errcheck // its end is all that matters
		close(over)
	}()
	var conns []net.Conn
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if c, err := net.DialTimeout("tcp", address, 5*time.Second); err == nil {
				conns = append(conns, c)
			}
			continue
		case <-over:
		}
		break
	}
	var left atomic.Int64
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				return // the client has been told
			}
			c.SetDeadline(time.Now().Add(2 * time.Second))
			if err := tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake(); err != nil { //nolint:gosec // whether anybody answers
				left.Add(1)
			}
		})
	}
	wg.Wait()
	fmt.Println(len(conns), left.Load())
	return nil
}

// serveAPI behaves like kube-apiserver as far as load balancers and clients can see: TLS, HTTP/2, and /readyz with its two
// checks of etcd, which run once a second at most and remember the last result. A file contains the state of etcd: ok, dead,
// or electing. When it is told to stop, it is not ready for a while, and then ends its connections with GOAWAY.
func serveAPI(ctx context.Context, dir string) error {
	etcd := &etcd{file: filepath.Join(dir, "etcd")}
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil {
			http.Error(w, "[-]shutdown failed: reason withheld", http.StatusInternalServerError)
			return
		}
		if len(r.URL.Query()["exclude"]) < 2 && !etcd.check() {
			http.Error(w, "[-]etcd failed: reason withheld", http.StatusInternalServerError)
			return
		}
		io.WriteString(w, "ok")
	})
	mux.HandleFunc("/list", func(w http.ResponseWriter, r *http.Request) { // what an informer does when it connects
		burn(40 * time.Millisecond)
		io.WriteString(w, "all")
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) { // a request that is under way most of the time
		time.Sleep(slowFor)
		io.WriteString(w, "at last")
	})
	mux.HandleFunc("/read", func(w http.ResponseWriter, r *http.Request) {
		burn(time.Millisecond)
		if !etcd.wait(r.Context(), 2*time.Second) {
			http.Error(w, "etcd does not answer", http.StatusGatewayTimeout)
			return
		}
		host, _ := os.Hostname()
		io.WriteString(w, host)
	})
	srv := &http.Server{Addr: ":6443", Handler: mux}
	ended := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		time.Sleep(5 * time.Second) // --shutdown-delay-duration
		ended <- srv.Shutdown(context.Background())
	})
	if err := srv.ListenAndServeTLS(filepath.Join(dir, "cert"), filepath.Join(dir, "key")); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}

// burn uses a fixed amount of CPU time, so it takes longer on a busy machine.
func burn(d time.Duration) {
	runtime.LockOSThread() // another thread has another clock, which may be seconds behind
	defer runtime.UnlockOSThread()
	var begin, now syscall.Rusage
	const thread = 1 // RUSAGE_THREAD
	syscall.Getrusage(thread, &begin)
	for {
		for range 1000 {
			_ = rand.Int()
		}
		syscall.Getrusage(thread, &now)
		if time.Duration(now.Utime.Nano()-begin.Utime.Nano()) >= d {
			return
		}
	}
}

type etcd struct {
	file   string
	asked  atomic.Int64 // when, in Unix nanoseconds
	failed atomic.Bool
}

func (e *etcd) ok() bool {
	state, err := os.ReadFile(e.file)
	return err != nil || strings.TrimSpace(string(state)) == "ok"
}

func (e *etcd) wait(ctx context.Context, d time.Duration) bool {
	for end := time.Now().Add(d); !e.ok(); {
		if ctx.Err() != nil || time.Now().After(end) {
			return false
		}
		time.Sleep(20 * time.Millisecond) // imitates etcd itself
	}
	return true
}

func (e *etcd) check() bool {
	now, last := time.Now().UnixNano(), e.asked.Load()
	if now-last < int64(time.Second) || !e.asked.CompareAndSwap(last, now) {
		return !e.failed.Load()
	}
	ok := e.wait(context.Background(), 2*time.Second)
	e.failed.Store(!ok)
	return ok
}

// event is one request of a client, or one connection that it opened.
type event struct {
	At     time.Time
	Client int // 0 opens a connection for each request
	Dial   bool
	OK     bool
	Why    string
	Took   time.Duration // from when the request was sent
}

// Clients: one opens a connection for each of 20 requests a second; the others hold an HTTP/2 connection each, with 5
// requests a second, and list everything whenever they connect. Where a test asks for them, slow clients hold one as well, and
// wait for an answer most of the time.
const (
	http2Clients = 12
	slowClients  = 3
	slowFor      = 700 * time.Millisecond
	patience     = 2 * time.Second
)

type clientsRequest struct {
	Address string
	Name    string
	CA      string
	Slow    bool
}

func clients(ctx context.Context, config string, out io.Writer) error {
	var r clientsRequest
	if err := json.Unmarshal([]byte(config), &r); err != nil {
		return err
	}
	os.Setenv("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "5")
	os.Setenv("HTTP2_PING_TIMEOUT_SECONDS", "5")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(r.CA))
	events := make(chan event, 1000)
	var wg sync.WaitGroup
	all := 1 + http2Clients
	if r.Slow {
		all += slowClients
	}
	for i := range all {
		wg.Go(func() { client(ctx, i, r, pool, events) })
	}
	go func() { wg.Wait(); close(events) }()
	enc := json.NewEncoder(out)
	for e := range events {
		if err := enc.Encode(e); err != nil {
			return err
		}
	}
	return nil
}

func client(ctx context.Context, id int, r clientsRequest, ca *x509.CertPool, events chan<- event) {
	list := make(chan struct{}, 100)
	t := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: ca, ServerName: r.Name},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, r.Address)
			if err == nil {
				events <- event{At: time.Now(), Client: id, Dial: true}
				list <- struct{}{}
			}
			return conn, err
		},
	}
	every, path := 50*time.Millisecond, "/read"
	if id == 0 {
		t.DisableKeepAlives = true
		t.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	} else {
		utilnet.SetTransportDefaults(t)
		every = 200 * time.Millisecond
		if id > http2Clients {
			every, path = time.Second, "/slow"
		}
		time.Sleep(rand.N(every)) // not all at the same moment
	}
	get := func(path string) {
		begin := time.Now()
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.Name+path, nil)
		resp, err := t.RoundTrip(req)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err == nil && resp.StatusCode != http.StatusOK {
				err = errors.New(resp.Status)
			}
		}
		e := event{At: time.Now(), Client: id, OK: err == nil, Took: time.Since(begin)}
		if err != nil {
			e.Why = fmt.Sprintf("%v after %s", err, e.Took.Round(time.Millisecond))
		}
		events <- e
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	if id > 0 { // as clients with informers: one thing after the other
		for {
			select {
			case <-ctx.Done():
				return
			case <-list:
				get("/list")
			case <-tick.C:
				get(path)
			}
		}
	}
	slots := make(chan struct{}, 40) // what a client leaves open while there is no answer
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-list:
		case <-tick.C:
			select {
			case slots <- struct{}{}:
				wg.Go(func() { get(path); <-slots })
			default:
				events <- event{At: time.Now(), Client: id, Why: "every slot waits"}
			}
		}
	}
}
