package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	clienttesting "k8s.io/client-go/testing"

	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/facts"
)

// versioned is an API that refuses to update an object which was changed after it was read, as API servers do.
func versioned(client *fake.Clientset) (api corev1client.ConfigMapInterface, conflicts *atomic.Int64) {
	conflicts = new(atomic.Int64)
	version := 0
	store := func(create bool) clienttesting.ReactionFunc { // one at a time: the client holds its lock
		return func(action clienttesting.Action) (bool, runtime.Object, error) {
			tracker, gvr := client.Tracker(), action.GetResource()
			m := action.(interface{ GetObject() runtime.Object }).GetObject().DeepCopyObject().(*corev1.ConfigMap)
			if !create {
				have, err := tracker.Get(gvr, m.Namespace, m.Name)
				if err != nil {
					return true, nil, err
				}
				if have.(*corev1.ConfigMap).ResourceVersion != m.ResourceVersion {
					conflicts.Add(1)
					return true, nil, apierrors.NewConflict(gvr.GroupResource(), m.Name, errors.New("it has changed"))
				}
			}
			version++
			m.ResourceVersion = strconv.Itoa(version)
			if create {
				if err := tracker.Create(gvr, m, m.Namespace); err != nil {
					conflicts.Add(1)
					return true, nil, err
				}
				return true, m, nil
			}
			return true, m, tracker.Update(gvr, m, m.Namespace)
		}
	}
	client.PrependReactor("create", "configmaps", store(true))
	client.PrependReactor("update", "configmaps", store(false))
	return client.CoreV1().ConfigMaps(metav1.NamespaceSystem), conflicts
}

func recordOf(n int) drill.Record {
	began := time.Date(2026, 11, 27, n, 0, 0, 0, time.UTC)
	r := drill.Report{Cluster: "lab", Quorate: fmt.Sprintf("v0.9.%d", n), Began: began, Ended: began.Add(time.Minute), Faults: []drill.Outcome{{Name: "kill/etcd/leader", Pass: true}}}
	r.Summarize()
	return r.Record()
}

// TestDrillsOfSeveralCallers are all in the history, whoever is first, and so is the drill that an older Quorate stored.
func TestDrillsOfSeveralCallers(t *testing.T) {
	old, err := json.Marshal(facts.LastDrill{Ended: time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC), Pass: true, Faults: map[string]facts.DrillVerdicts{"kill/etcd/leader": {Passed: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: facts.ConfigMap, Namespace: metav1.NamespaceSystem}, Data: map[string]string{facts.DrillKey: string(old), facts.SpecKey: "spec"}})
	api, conflicts := versioned(client)
	// All of the first reads end before the first write, so that the writers collide.
	const callers = 8
	var read sync.WaitGroup
	read.Add(callers)
	var reads atomic.Int64
	waits := func() {
		if reads.Add(1) <= callers {
			read.Done()
			read.Wait()
		}
	}
	var wg sync.WaitGroup
	for n := range callers {
		wg.Go(func() {
			if err := rememberDrill(t.Context(), &slowReads{api, waits}, recordOf(n)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	last, history, err := readDrills(t.Context(), api)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range drill.Recall(history.Data, last) {
		got = append(got, r.Quorate)
	}
	var want []string
	for n := callers - 1; n >= 0; n-- {
		want = append(want, fmt.Sprintf("v0.9.%d", n))
	}
	if want = append(want, ""); !slices.Equal(got, want) {
		t.Errorf("the history has %v", got)
	}
	if conflicts.Load() == 0 {
		t.Error("the callers did not collide: the test does not see what it should")
	}
	if len(history.Data) != callers+1 {
		t.Errorf("the history has %d entries", len(history.Data))
	}
}

// slowReads wait until a history is read everywhere.
type slowReads struct {
	corev1client.ConfigMapInterface
	wait func()
}

func (s *slowReads) Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.ConfigMap, error) {
	m, err := s.ConfigMapInterface.Get(ctx, name, o)
	if name == facts.DrillsConfigMap {
		s.wait()
	}
	return m, err
}

// TestAHistoryThatCannotBeReadIsNotEmpty, and is not replaced by an empty one.
func TestAHistoryThatCannotBeReadIsNotEmpty(t *testing.T) {
	for _, name := range []string{facts.ConfigMap, facts.DrillsConfigMap} {
		client := fake.NewClientset()
		api, _ := versioned(client)
		if err := rememberDrill(t.Context(), api, recordOf(1)); err != nil {
			t.Fatal(err)
		}
		broken := true
		client.PrependReactor("get", "configmaps", func(action clienttesting.Action) (bool, runtime.Object, error) {
			if broken && action.(clienttesting.GetAction).GetName() == name {
				return true, nil, apierrors.NewInternalError(errors.New("etcdserver: request timed out"))
			}
			return false, nil, nil
		})
		if _, _, err := readDrills(t.Context(), api); err == nil {
			t.Errorf("%s cannot be read, and there is a history", name)
		}
		if err := rememberDrill(t.Context(), api, recordOf(2)); err == nil || !strings.Contains(err.Error(), "timed out") {
			t.Errorf("%s cannot be read: %v", name, err)
		}
		broken = false
		_, history, err := readDrills(t.Context(), api)
		if err != nil || len(history.Data) != 1 {
			t.Errorf("%v, %v", history, err)
		}
	}
}
