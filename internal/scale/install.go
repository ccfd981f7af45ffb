package scale

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"quorate.dev/quorate/internal/spec"
)

// Exec runs a command on the machine that kwok runs on.
type Exec func(ctx context.Context, argv []string, in io.Reader, out io.Writer) error

// healthTimeout is how long kwok may take to answer: it waits for the API first.
const healthTimeout = time.Minute

// putFile writes its standard input to a file with a mode, which is complete as soon as it has its name. The unit that it names does not run with
// what was there before.
const putFile = `set -e; umask 077; mkdir -p "$(dirname "$1")"; cat > "$1.new"; chmod "$2" "$1.new"
if [ -n "$3" ] && ! cmp -s "$1.new" "$1"; then systemctl stop "$3" 2>/dev/null || true; fi
mv "$1.new" "$1"`

// Install brings kwok to its machine, starts it, and waits until it answers. program is a file on this machine. It restarts kwok only if something
// other than the token has changed: a new process waits until the leases of the one before have expired, and the control plane takes all
// simulated nodes for dead meanwhile.
func Install(ctx context.Context, c *spec.Cluster, access Access, program string, exec Exec) error {
	binary, err := os.Open(program)
	if err != nil {
		return err
	}
	defer binary.Close()
	for _, f := range []struct {
		path, mode, stops string
		content           io.Reader
	}{{Program, "755", Unit, binary}, {Token, "600", "", strings.NewReader(access.Token)}, {Config, "644", Unit, strings.NewReader(config())},
		{Kubeconfig, "600", Unit, bytes.NewReader(access.Kubeconfig)}, {UnitFile, "644", Unit, strings.NewReader(unit(c))}} {
		// The content is on stdin and the path an argument: nothing is quoted.
		var out bytes.Buffer
		if err := exec(ctx, []string{"sh", "-c", putFile, "put", f.path, f.mode, f.stops}, f.content, &out); err != nil {
			return fmt.Errorf("writing %s: %w: %s", f.path, err, strings.TrimSpace(out.String()))
		}
	}
	for _, argv := range [][]string{{"systemctl", "daemon-reload"}, {"systemctl", "enable", Unit}, {"systemctl", "start", Unit}} {
		var out bytes.Buffer
		if err := exec(ctx, argv, nil, &out); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(out.String()))
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, healthTimeout, fmt.Errorf("it did not answer within %s; `journalctl -u %s` on the machine says why", healthTimeout, Unit))
	defer cancel()
	return look(ctx, func(ctx context.Context) (bool, error) {
		var out bytes.Buffer
		// The machines of a lab have no HTTP client. An API that does not answer keeps kwok from listening.
		err := exec(ctx, []string{"sh", "-c", fmt.Sprintf("printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' | socat -t 5 - TCP:%s", HealthAddress)}, nil, &out)
		return err == nil && strings.Contains(out.String(), " 200 "), err
	})
}
