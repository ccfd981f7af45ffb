package run

import (
	"context"
	"regexp"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// TestAUnitThatHangsTellsNothing: systemd then starts it again. While it goes on, systemd hears of that several times in the time after
// which it would kill it.
func TestAUnitThatHangsTellsNothing(t *testing.T) {
	c := spec.DefaultLab("test")
	c.Spec.Repair.Watch = true
	m := regexp.MustCompile(`(?m)^WatchdogSec=(\d+)$`).FindStringSubmatch(hostconfig.Watched(c, c.HostsWith(spec.RoleControlPlane)[0]).Files[0].Content)
	if m == nil {
		t.Fatal("systemd expects no reports")
	}
	seconds, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	limit := time.Duration(seconds) * time.Second
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var (
			u       unit
			reports atomic.Int64
		)
		u.sign()
		go u.live(ctx, func(state string) {
			if state == "WATCHDOG=1" {
				reports.Add(1)
			}
		})
		heard := func(d time.Duration) int64 {
			synctest.Wait()
			before := reports.Load()
			time.Sleep(d)
			synctest.Wait()
			return reports.Load() - before
		}
		for range 100 { // several signs within unitHangs, for longer than that
			if n := heard(limit); n < 3 {
				t.Fatalf("%d reports within %s", n, limit)
			}
			u.sign()
		}
		heard(unitHangs)
		if n := heard(2 * limit); n > 0 {
			t.Errorf("it hangs, and has reported %d times", n)
		}
		u.sign() // it was only slow
		if n := heard(limit); n < 3 {
			t.Errorf("%d reports within %s", n, limit)
		}
	})
}
