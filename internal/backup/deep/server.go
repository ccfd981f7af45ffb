package deep

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"quorate.dev/quorate/internal/kube"
)

const (
	// readyTimeout is how long the API server may take to be ready; with many objects, it reads for a while.
	readyTimeout = 5 * time.Minute
	readyPace    = 100 * time.Millisecond
	// starts bounds how often another port is tried.
	starts = 3
	// logTail is how much of what the API server printed is looked at if it fails.
	logTail  = 4 << 10
	logLines = 3
)

// errPort says that somebody else took the port.
var errPort = errors.New("the port is in use")

// server is an API server that runs as a child of this process.
type server struct {
	client kubernetes.Interface
	meta   metadata.Interface
	cmd    *exec.Cmd
	log    string
	ended  chan struct{}
	err    error // when it has ended
}

// start starts an API server and waits until it is ready. It ends with stop, or with this process.
func start(ctx context.Context, program, dir, etcd string, flags map[string]string, encryption []byte) (*server, error) {
	id, err := identify(dir)
	if err != nil {
		return nil, err
	}
	// Services, webhooks, and nodes are those of the cluster that the backup is of: nothing answers there.
	egress := fmt.Sprintf("apiVersion: apiserver.k8s.io/v1beta1\nkind: EgressSelectorConfiguration\negressSelections:\n- name: cluster\n  connection:\n    proxyProtocol: HTTPConnect\n    transport: {uds: {udsName: %q}}\n",
		filepath.Join(dir, "nowhere"))
	files := map[string][]byte{"egress.yaml": []byte(egress)}
	if encryption != nil {
		files["encryption.yaml"] = encryption
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, err
		}
	}
	for range starts {
		var s *server
		if s, err = startOnce(ctx, program, dir, etcd, flags, encryption != nil, id); err == nil {
			return s, nil
		}
		if !errors.Is(err, errPort) {
			break
		}
	}
	return nil, fmt.Errorf("starting an API server on the restored etcd: %w", err)
}

// kept are the flags of the cluster's API server that decide what it serves, and how.
var kept = []string{"runtime-config", "feature-gates", "etcd-prefix", "service-cluster-ip-range"}

func arguments(dir, etcd string, port int, flags map[string]string, encrypted bool) []string {
	in := func(name string) string { return filepath.Join(dir, name) }
	out := []string{
		"--etcd-servers=" + etcd,
		// What it writes is thrown away, and what was written before must stay.
		"--etcd-compaction-interval=0", "--etcd-count-metric-poll-period=0", "--endpoint-reconciler-type=none",
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=" + strconv.Itoa(port),
		"--cert-dir=" + dir, "--tls-cert-file=" + in(serverCertificate), "--tls-private-key-file=" + in(serverKey), "--client-ca-file=" + in(authority),
		"--anonymous-auth=false", "--authorization-mode=AlwaysAllow",
		// Tokens of the cluster are worth nothing here, and those of this server nothing there.
		"--service-account-issuer=https://localhost", "--service-account-key-file=" + in(serverKey), "--service-account-signing-key-file=" + in(serverKey),
		// Its own first writes must not depend on what the cluster admits.
		"--disable-admission-plugins=MutatingAdmissionPolicy,MutatingAdmissionWebhook,ValidatingAdmissionPolicy,ValidatingAdmissionWebhook",
		"--egress-selector-config-file=" + in("egress.yaml"),
		// One client reads everything once.
		"--watch-cache=false", "--enable-priority-and-fairness=false", "--profiling=false",
	}
	for _, name := range kept {
		if value := flags[name]; value != "" {
			out = append(out, "--"+name+"="+value)
		}
	}
	if encrypted {
		out = append(out, "--encryption-provider-config="+in("encryption.yaml"))
	}
	return out
}

func startOnce(ctx context.Context, program, dir, etcd string, flags map[string]string, encrypted bool, id identity) (*server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	config := &rest.Config{Host: "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), QPS: -1, WarningHandler: rest.NoWarnings{}, // of deprecated kinds
		TLSClientConfig: rest.TLSClientConfig{CAData: id.ca, CertData: id.certificate, KeyData: id.key}}
	client, err := kube.FromConfig(config)
	if err != nil {
		return nil, err
	}
	meta, err := metadata.NewForConfig(client.Config)
	if err != nil {
		return nil, err
	}
	s := &server{client: client, meta: meta, log: filepath.Join(dir, "log"), ended: make(chan struct{})}
	if err := s.run(program, arguments(dir, etcd, port, flags, encrypted)); err != nil {
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// run starts the program. The kernel ends it when this process ends, in whatever way.
func (s *server) run(program string, args []string) error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = exec.Command(program, args...)
	s.cmd.Dir, s.cmd.Env = filepath.Dir(program), []string{"PATH=/usr/bin:/bin"} // no proxy
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// The kernel ends the program when the thread that started it ends, so the thread has to stay until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			s.err = s.cmd.Wait()
			close(s.ended)
		}
	}()
	if err := <-started; err != nil {
		if errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("%w: if the file system of %s does not allow programs (noexec), set TMPDIR to a directory on another one", err, filepath.Dir(program))
		}
		return err
	}
	return nil
}

func (s *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("it was not ready within %s", readyTimeout))
	defer cancel()
	for {
		// One object that it cannot read keeps its informers from ever being complete, and that is what it is asked about.
		text, err := s.client.Discovery().RESTClient().Get().AbsPath("/readyz").Param("exclude", "informer-sync").DoRaw(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return s.explain(s.failure())
		case <-ctx.Done():
			return s.explain(fmt.Errorf("%w: %s", context.Cause(ctx), cmp.Or(failedChecks(text), err.Error())))
		case <-time.After(readyPace):
		}
	}
}

// failedChecks are those lines of an answer of /readyz that are not ok.
func failedChecks(answer []byte) string {
	var out []string
	for line := range strings.Lines(string(answer)) {
		if strings.HasPrefix(line, "[-]") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return strings.Join(out, ", ")
}

// failure is why it ended.
func (s *server) failure() error {
	if strings.Contains(s.printed(), "address already in use") {
		return errPort
	}
	return fmt.Errorf("it ended: %w", cmp.Or(s.err, errors.New("exit status 0")))
}

// explain adds what the API server printed last to an error, if it has ended.
func (s *server) explain(err error) error {
	select {
	case <-s.ended:
		return fmt.Errorf("%w; the API server ended, and printed: %s", err, s.printed())
	default:
		return err
	}
}

// printed are the last lines that it printed.
func (s *server) printed() string {
	f, err := os.Open(s.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > logTail {
		f.Seek(-logTail, io.SeekEnd) //nolint:errcheck // then it is read from the beginning
	}
	data, _ := io.ReadAll(f) //nolint:errcheck // what was read is shown
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-logLines):], []byte("\n")))
}

// stop ends it. Nothing that it would write when it ends gracefully is needed.
func (s *server) stop() {
	select {
	case <-s.ended: // its ID may be another process's by now
		return
	default:
	}
	syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // it may have ended since
	<-s.ended
}

// freePort is a port that is free now. Another process may take it before the API server does.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
