package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/mod/semver"

	"quorate.dev/quorate/internal/facts"
)

const (
	downgradeTimeout = 10 * time.Second
	// convertTimeout is how long all members may take to bring their data to the older version. They look every few seconds.
	convertTimeout = 2 * time.Minute
)

// Downgrade has etcd prepare for members of an older minor release (https://etcd.io/docs/v3.7/downgrades/downgrade_3_7): it
// validates and enables the downgrade, and waits until the data of every member has the older version. From then on each
// member can be replaced, and etcd ends the downgrade itself when all are. It can be repeated.
func Downgrade(ctx context.Context, members []Member, version string) error {
	target, ok := minorOf(version)
	if !ok {
		return fmt.Errorf("downgrading etcd to %q: not a version", version)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, convertTimeout, fmt.Errorf("not within %s", convertTimeout))
	defer cancel()
	for {
		seen, _, err := Observe(ctx, members)
		if err == nil {
			waiting, enabled := unconverted(seen, target), under(seen, target)
			switch {
			case len(waiting) == 0 && (enabled || mixed(seen, target)):
				return nil
			case enabled:
				err = fmt.Errorf("the data of %s still has a newer version", strings.Join(waiting, ", "))
			default:
				// As long as the members have not agreed on the newer version, which they do within seconds after the last one got
				// it, there is nothing yet that could be downgraded.
				err = through(ctx, members, func(ctx context.Context, c *clientv3.Client) error { return enable(ctx, c, target+".0") })
			}
			if err == nil {
				err = errors.New("the members do not know of it yet")
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("downgrading etcd to %s: %w (gave up: %w)", target, err, context.Cause(ctx))
		case <-time.After(time.Second):
		}
	}
}

// CancelDowngrade ends a downgrade that is under way.
func CancelDowngrade(ctx context.Context, members []Member) error {
	err := through(ctx, members, func(ctx context.Context, c *clientv3.Client) error {
		ctx, cancel := downgradeCall(ctx)
		defer cancel()
		_, err := c.Downgrade(ctx, clientv3.DowngradeCancel, "")
		if errors.Is(err, rpctypes.ErrNoInflightDowngrade) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("ending the downgrade of etcd: %w", err)
	}
	return nil
}

// downgradeCall limits what one member may take, so that the next one is asked.
func downgradeCall(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, downgradeTimeout, fmt.Errorf("no answer within %s", downgradeTimeout))
}

func enable(ctx context.Context, c clientv3.Maintenance, target string) error {
	ctx, cancel := downgradeCall(ctx)
	defer cancel()
	if _, err := c.Downgrade(ctx, clientv3.DowngradeValidate, target); err != nil && !errors.Is(err, rpctypes.ErrDowngradeInProcess) {
		return err
	}
	_, err := c.Downgrade(ctx, clientv3.DowngradeEnable, target)
	if errors.Is(err, rpctypes.ErrDowngradeInProcess) {
		return nil
	}
	return err
}

// minorOf is the minor release of a version: 3.6 for v3.6.16.
func minorOf(version string) (string, bool) {
	v := "v" + strings.TrimPrefix(version, "v")
	return strings.TrimPrefix(semver.MajorMinor(v), "v"), semver.IsValid(v)
}

// unconverted are the members whose data has a newer version than the target, or of which nobody can tell.
func unconverted(seen []facts.EtcdMember, target string) (out []string) {
	for _, m := range seen {
		data, ok := minorOf(m.StorageVersion)
		if !ok || semver.Compare("v"+data, "v"+target) > 0 {
			out = append(out, m.Name)
		}
	}
	return out
}

// mixed says that a member runs the target's minor release already: the cluster, and the data, stay at that version.
func mixed(seen []facts.EtcdMember, target string) bool {
	for _, m := range seen {
		if v, ok := minorOf(m.Version); ok && v == target {
			return true
		}
	}
	return false
}

// under says that a downgrade to the target is under way.
func under(seen []facts.EtcdMember, target string) bool {
	for _, m := range seen {
		if to, ok := minorOf(m.DowngradeTo); ok && to == target {
			return true
		}
	}
	return false
}
