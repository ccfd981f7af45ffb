package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/drill/probe"
)

const (
	// dir is on the nodes and in the pods.
	dir         = "/var/lib/quorate-bench"
	program     = dir + "/program"
	clientsFile = dir + "/clients.json"
	logs        = dir + "/logs"

	webPort  = 8080
	echoPort = 7000
	// leaving is how long a replica of the workload serves after it was told to stop, as a well-behaved one does: until
	// nobody is sent to it any more.
	leaving = 10 * time.Second
)

// clients is what the pod of a node is told.
type clients struct {
	Options probe.Options  `json:"options"`
	Clients []probe.Client `json:"clients"`
}

// runClients runs the clients of one node, in a pod. They log until the pod is stopped.
func runClients(ctx context.Context) error {
	data, err := os.ReadFile(clientsFile)
	if err != nil {
		return err
	}
	var c clients
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("%s: %w", clientsFile, err)
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	config.QPS = -1
	set, err := probe.Run(ctx, config, c.Clients, c.Options)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	// A container that is restarted must not overwrite what the former one has seen.
	log, err := os.Create(filepath.Join(logs, fmt.Sprintf("%d.jsonl", time.Now().UnixNano())))
	if err != nil {
		return err
	}
	err = set.Log(ctx, log)
	set.Stop()
	return errors.Join(err, log.Close())
}

// runWorkload is a replica of the workload: HTTP, and TCP connections that echo lines.
func runWorkload(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	var stopping atomic.Bool
	web := &http.Server{Addr: fmt.Sprintf(":%d", webPort), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ready" && stopping.Load() {
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
