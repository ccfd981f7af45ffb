package run

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/hostside/repairs"
)

// TestPastRepairsAreListedOnce: a repair of the whole cluster is in the journals of many hosts, whose clocks differ a little.
func TestPastRepairsAreListedOnce(t *testing.T) {
	noon := time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC)
	on := func(host, repair string, after, took time.Duration) PastRepair {
		a := repairs.Attempt{Repair: repair, Problem: "p", By: "me", Began: noon.Add(after)}
		if took > 0 {
			a.Ended, a.Made = a.Began.Add(took), true
		}
		return PastRepair{Attempt: a, Hosts: []string{host}}
	}
	got := merged([]PastRepair{
		on("cp-a", "etcd-space", 0, time.Minute), on("cp-b", "etcd-space", time.Second, 0), on("cp-c", "etcd-space", 2*time.Second, time.Minute),
		on("cp-a", "units", time.Hour, time.Second), on("cp-a", "units", time.Hour+10*time.Second, time.Second), // twice on the same host
		on("cp-a", "etcd-space", 2*time.Hour, time.Minute),
		{Attempt: repairs.Attempt{Problem: "refused", Began: noon}, Held: true}, {Attempt: repairs.Attempt{Problem: "refused", Began: noon}, Held: true},
	})
	var hosts []string
	for i, p := range got {
		if i > 0 && p.Began.After(got[i-1].Began) {
			t.Errorf("%d is newer than the one before", i)
		}
		hosts = append(hosts, p.Repair)
	}
	if want := []string{"etcd-space", "units", "units", "etcd-space", "", ""}; !slices.Equal(hosts, want) {
		t.Errorf("%v, want %v", hosts, want)
	}
	if all := got[3]; !slices.Equal(all.Hosts, []string{"cp-a", "cp-b", "cp-c"}) || !all.Made || all.Ended.IsZero() {
		t.Errorf("%+v", all)
	}
}

// TestHeldRepairs: events about repairs that were made are left out, because the journals say more of them.
func TestHeldRepairs(t *testing.T) {
	at := metav1.NewTime(time.Date(2026, 8, 3, 12, 0, 0, 0, time.UTC))
	var events []corev1.Event
	for _, o := range []Outcome{Repaired, RepairFailed, RepairRefused, RepairLimited} {
		events = append(events, corev1.Event{Reason: reasons[o], Message: string(o), FirstTimestamp: at, Source: corev1.EventSource{Host: "cp-a"}})
	}
	got := heldIn(append(events, corev1.Event{Reason: "Other"}))
	if len(got) != 2 || got[0].Problem != "refused" || got[1].Problem != "limited" || !got[0].Held || !got[0].Began.Equal(at.Time) || !slices.Equal(got[0].Hosts, []string{"cp-a"}) {
		t.Errorf("%+v", got)
	}
}
