package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/drill/probe"
	"quorate.dev/quorate/internal/hostside/drillpods"
)

const (
	webPort  = 8080
	echoPort = 7000
	// leaving is how long a replica of the workload serves after it was told to stop, as a well-behaved one does: until
	// nobody is sent to it any more.
	leaving = 10 * time.Second
	// abandonedAfter is how long nobody reads what clients log until they end on their own: what started them was killed.
	abandonedAfter = time.Hour
	// peersPace is the time between two looks at the addresses of the other pods.
	peersPace = 3 * time.Second
)

// orders are what the pod of a node is told.
type orders struct {
	Options probe.Options  `json:"options"`
	Clients []probe.Client `json:"clients"`
}

// RunInPod runs the clients of one node, in a pod. They log until the pod is stopped, or until nobody reads what they log any more. It also serves what
// the clients in the pods of other nodes get.
func RunInPod(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM) // process 1 has no default
	defer stop()
	data, err := os.ReadFile(drillpods.ClientsFile)
	if err != nil {
		return err
	}
	var o orders
	if err := json.Unmarshal(data, &o); err != nil {
		return fmt.Errorf("%s: %w", drillpods.ClientsFile, err)
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	config.QPS = -1
	web := &http.Server{Addr: fmt.Sprintf(":%d", webPort), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "pod") })}
	running, end := context.WithCancelCause(ctx)
	defer end(nil)
	go func() { end(fmt.Errorf("serving the other pods: %w", web.ListenAndServe())) }()
	defer web.Close()
	p := &peers{}
	if err := p.follow(running, config, o); err != nil {
		return err
	}
	o.Options.Dial = p.dial
	if err := o.run(running, config); err != nil || ctx.Err() != nil {
		return err
	}
	if running.Err() != nil {
		return context.Cause(running)
	}
	<-ctx.Done() // nobody reads what they log, and a container that ends would be started again
	return nil
}

// run runs the clients until ctx is done, or nobody reads what they log.
func (o orders) run(ctx context.Context, config *rest.Config) error {
	var set *probe.Set
	for {
		var err error
		if set, err = probe.Run(ctx, config, o.Clients, o.Options); err == nil {
			break
		}
		// The API may be away just when the pod starts. To end would only make the next attempt later, and the one after that much later.
		fmt.Fprintln(os.Stderr, err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
	defer set.Stop()
	log, err := drillpods.NewWriter()
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	go func() {
		defer end()
		tick := time.NewTicker(time.Minute)
		defer tick.Stop()
		for !drillpods.Abandoned(abandonedAfter) {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	err = set.Log(ctx, log)
	return errors.Join(err, log.Close())
}

// peerName is the name by which a client asks for the pod of another node. Only peers.dial knows it.
func peerName(node string) string { return node + ".pods-of-the-drill" }

// peers are the addresses of the pods of other nodes. A pod gets another one when its host is rebooted.
type peers struct {
	mu    sync.Mutex
	known map[string]string // by node
}

// follow learns the addresses as long as ctx lives. What was learned stays while the API is away.
func (p *peers) follow(ctx context.Context, config *rest.Config, o orders) error {
	used := false
	for _, c := range o.Clients {
		used = used || c.Peer != ""
	}
	if !used {
		return nil
	}
	brief := rest.CopyConfig(config)
	brief.Timeout = peersPace
	api, err := kubernetes.NewForConfig(brief)
	if err != nil {
		return err
	}
	go func() {
		tick := time.NewTicker(peersPace)
		defer tick.Stop()
		for {
			// From the cache of the API server: the address of a pod that is served by it is there.
			list, err := api.CoreV1().Pods(o.Options.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selectorOf(clientsApp), ResourceVersion: "0"})
			if err == nil {
				p.learn(list.Items)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return nil
}

// learn remembers the addresses of pods that run.
func (p *peers) learn(pods []corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = map[string]string{}
	}
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil && pod.Status.PodIP != "" {
			p.known[pod.Spec.NodeName] = pod.Status.PodIP
		}
	}
}

// dial connects to the pod of a node, or, for every other name, to what the network knows.
func (p *peers) dial(ctx context.Context, network, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if node, is := strings.CutSuffix(name, peerName("")); is {
		p.mu.Lock()
		name = p.known[node]
		p.mu.Unlock()
		if name == "" {
			return nil, fmt.Errorf("the pod on %s has no address yet", node)
		}
	}
	return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(name, port))
}

// RunWorkload is a replica of the workload: HTTP, and TCP connections that echo lines.
func RunWorkload(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM) // process 1 has no default
	defer stop()
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	var stopping atomic.Bool
	web := &http.Server{Addr: fmt.Sprintf(":%d", webPort), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == readyPath && stopping.Load() {
			http.Error(w, "stopping", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, host)
	})}
	failed := make(chan error, 2)
	go func() { failed <- web.ListenAndServe() }()
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", echoPort))
	if err != nil {
		return err
	}
	bye, sayBye := context.WithCancel(context.Background())
	defer sayBye()
	var echoing sync.WaitGroup
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				failed <- err
				return
			}
			echoing.Add(1)
			go func() {
				defer echoing.Done()
				defer conn.Close()
				ended := context.AfterFunc(bye, func() { _, _ = fmt.Fprintln(conn, probe.Bye) }) // whoever does not read it notices the end
				defer ended()
				for in := bufio.NewScanner(conn); in.Scan(); {
					if _, err := fmt.Fprintln(conn, in.Text()); err != nil {
						return
					}
				}
			}()
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stopping.Store(true)
	time.Sleep(leaving)
	sayBye()
	last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	echoed := make(chan struct{})
	go func() {
		echoing.Wait()
		close(echoed)
	}()
	select {
	case <-echoed:
	case <-last.Done():
	}
	return web.Shutdown(last)
}
