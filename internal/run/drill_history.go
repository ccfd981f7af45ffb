package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/util/retry"

	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/step"
)

// conflicts is how a change of the history is repeated while others change it: for longer than noteTimeout, which ends it.
var conflicts = wait.Backoff{Duration: 20 * time.Millisecond, Factor: 1.3, Jitter: 0.5, Steps: 20}

// noteDrill stores in the cluster how a drill ended, also if it was interrupted. A drill that injected nothing says nothing. If it cannot be
// stored, the report says the same.
func (e *Engine) noteDrill(ctx context.Context, r *drill.Report) {
	if len(r.Faults) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	text, err := json.Marshal(r.Note())
	if err == nil {
		var client *kube.Client
		if client, err = e.client(ctx); err == nil {
			// The history comes first: it takes over what an older Quorate stored as the last drill. Alerts are about the last drill, so it is
			// stored even if the history is not.
			err = errors.Join(rememberDrill(ctx, client.CoreV1().ConfigMaps(metav1.NamespaceSystem), r.Record()), step.Note(ctx, client, facts.DrillKey, string(text)))
		}
	}
	if err != nil {
		e.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "drill/note", Title: "note in the cluster how the drill ended", Detail: err.Error()})
	}
}

// rememberDrill adds a drill to the history. If somebody else changes the history meanwhile, it starts again from what is there then.
func rememberDrill(ctx context.Context, api corev1client.ConfigMapInterface, r drill.Record) error {
	again := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	err := retry.OnError(conflicts, again, func() error {
		last, history, err := readDrills(ctx, api)
		if err != nil {
			return err
		}
		if history.Data, err = drill.Remember(history.Data, last, r); err != nil {
			return err
		}
		if history.ResourceVersion == "" {
			_, err = api.Create(ctx, history, metav1.CreateOptions{})
		} else {
			_, err = api.Update(ctx, history, metav1.UpdateOptions{})
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("storing the history of drills: %w", err)
	}
	return nil
}

// readDrills reads what the cluster remembers of drills: the entry of the last one (empty if there is none), and the history, which has no resource version
// if it does not exist yet. The last one is read first: whoever stores a drill stores the history first.
func readDrills(ctx context.Context, api corev1client.ConfigMapInterface) (last string, history *corev1.ConfigMap, err error) {
	notes, err := api.Get(ctx, facts.ConfigMap, metav1.GetOptions{})
	switch {
	case err == nil:
		last = notes.Data[facts.DrillKey]
	case !apierrors.IsNotFound(err):
		return "", nil, err
	}
	history, err = api.Get(ctx, facts.DrillsConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		history, err = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: facts.DrillsConfigMap, Namespace: metav1.NamespaceSystem}}, nil
	}
	return last, history, err
}

// DrillHistory is what the cluster remembers of drills, the newest first.
func (e *Engine) DrillHistory(ctx context.Context) ([]drill.Record, error) {
	client, err := e.client(ctx)
	if err != nil {
		return nil, err
	}
	last, history, err := readDrills(ctx, client.CoreV1().ConfigMaps(metav1.NamespaceSystem))
	if err != nil {
		return nil, fmt.Errorf("reading the history of drills: %w", err)
	}
	return drill.Recall(history.Data, last), nil
}
