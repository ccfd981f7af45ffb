package step

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/machine"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
)

const (
	// returnTimeout is how long the programs and the network of a host may take to work again.
	returnTimeout = 10 * time.Minute
	// bootTimeout is how long a machine may take to boot: large servers test their memory first.
	bootTimeout = 20 * time.Minute
	// rebootAgain is after how long a host that still runs is told to reboot again.
	rebootAgain = 2 * time.Minute
)

// maintained changes what the cluster remembers of a host in maintenance, and what the host notes for the time in which the cluster cannot
// be asked.
func (e *Env) maintained(ctx context.Context, client *kube.Client, s plan.Step, host string, change func(*facts.Maintenance, bool)) error {
	var m facts.Maintenance
	if err := e.onNode(ctx, "noting the maintenance of "+host, func(ctx context.Context) error {
		m = facts.Maintenance{}
		key := observe.MaintenanceKey + host
		have, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, observe.ConfigMap, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		text, in := "", false
		if err == nil {
			text, in = have.Data[key]
		}
		_ = json.Unmarshal([]byte(text), &m) // what cannot be read is overwritten
		change(&m, in)
		value, err := json.Marshal(m)
		if err != nil || in && string(value) == text {
			return err
		}
		return Note(ctx, client, key, string(value))
	}); err != nil {
		return err
	}
	if err := e.noteMaintenance(ctx, host, &m); err != nil && ctx.Err() == nil {
		// A full or read-only disk may be why the host is taken out.
		e.report(s, "the host cannot note that it is in maintenance, so repairs may start its programs while the API does not answer: "+err.Error())
	}
	return ctx.Err()
}

// noteMaintenance has a host note its maintenance, or with nil that it is over.
func (e *Env) noteMaintenance(ctx context.Context, host string, m *facts.Maintenance) error {
	c, err := e.Conns.Get(host)
	if err != nil {
		return err
	}
	_, err = machine.NoteMaintenance.On(ctx, c, m)
	return err
}

// beginMaintenance remembers which hosts are in maintenance. What is remembered of a host that is already stays.
func beginMaintenance(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.permittedAPI(ctx, s)
	if err != nil {
		return err
	}
	now, err := e.clusterTime(ctx)
	if err != nil {
		return err
	}
	for _, host := range s.Hosts {
		cordoned := false
		err := e.onNode(ctx, "reading node "+host, func(ctx context.Context) error {
			n, err := client.CoreV1().Nodes().Get(ctx, host, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil // a host without a node
			}
			cordoned = err == nil && n.Spec.Unschedulable
			return err
		})
		if err != nil {
			return err
		}
		err = e.maintained(ctx, client, s, host, func(m *facts.Maintenance, in bool) {
			m.Ready = false
			if !in {
				m.Since, m.Cordoned = now.UTC().Truncate(time.Second), cordoned
			}
		})
		if err != nil {
			return err
		}
		if err := e.setConditions(ctx, client, host, condition{corev1.NodeMaintenancePlanned, true, "QuorateMaintain", "the host is being taken out of service"}); err != nil {
			return err
		}
	}
	return nil
}

// confirmMaintenance evaluates the cluster without the hosts once more.
func confirmMaintenance(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.permittedAPI(ctx, s)
	if err != nil {
		return err
	}
	for _, host := range s.Hosts {
		if err := e.setConditions(ctx, client, host, condition{corev1.NodeMaintenanceInProgress, true, "QuorateMaintain", "the host can be powered off"}); err != nil {
			return err
		}
		if err := e.removeConditions(ctx, client, host, corev1.NodeMaintenancePlanned); err != nil {
			return err
		}
		if err := e.maintained(ctx, client, s, host, func(m *facts.Maintenance, _ bool) { m.Ready = true }); err != nil {
			return err
		}
	}
	return nil
}

// leaveMaintenance forgets the maintenance of a host: from then on the cluster relies on it again. One that departs was reset, or is dead.
func leaveMaintenance(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.permittedAPI(ctx, s)
	if err != nil {
		return err
	}
	if err := e.removeConditions(ctx, client, s.Host, corev1.NodeMaintenancePlanned, corev1.NodeMaintenanceInProgress, corev1.NodeDrainInProgress, corev1.NodeDrained); err != nil {
		return err
	}
	if _, stays := e.Cluster.Host(s.Host); stays { // before the cluster forgets it, so that no note is left
		if err := e.noteMaintenance(ctx, s.Host, nil); err != nil {
			return err
		}
	}
	return e.onNode(ctx, "ending the maintenance of "+s.Host, func(ctx context.Context) error {
		return forget(ctx, client, observe.MaintenanceKey+s.Host)
	})
}

func stopPrograms(ctx context.Context, e *Env, s plan.Step) error {
	return e.changePrograms(ctx, s, machine.Stop)
}

func startPrograms(ctx context.Context, e *Env, s plan.Step) error {
	return e.changePrograms(ctx, s, machine.Start)
}

// changePrograms stops or starts the static pods that the step names, or the host's etcd if it names none.
func (e *Env) changePrograms(ctx context.Context, s plan.Step, change host.Change[machine.Programs, struct{}]) error {
	c, permit, err := e.permitted(ctx, s)
	if err != nil {
		return err
	}
	_, err = change.Make(ctx, c, permit, machine.Programs{Pods: s.Pods, Etcd: len(s.Pods) == 0})
	return err
}

// awaitHost waits until nothing keeps a host from serving, and until pods on it reach those on other nodes: together, returnTimeout at the most.
func awaitHost(ctx context.Context, e *Env, s plan.Step) error {
	ctx, cancel := withDeadline(ctx, returnTimeout, "the return of "+s.Host)
	defer cancel()
	err := retry(ctx, time.Second, func(ctx context.Context) error {
		var lacks []string
		for _, f := range e.observe(ctx).Lacking(s.Host) {
			lacks = append(lacks, f.Summary)
		}
		return e.waiting(s, lacks)
	})
	h, _ := e.Cluster.Host(s.Host)
	if err != nil || !h.IsNode() {
		return err
	}
	// The network may need longer than the programs. A rolling reboot must not end for that reason.
	return retry(ctx, time.Second, func(ctx context.Context) error {
		err := tryPodTraffic(ctx, e, s)
		if err != nil && ctx.Err() == nil {
			e.note(s, firstLine(err.Error()))
		}
		return err
	})
}

// rebootHost reboots a host that is in maintenance. Which boot it was is noted before, so that a run that goes on later knows
// whether the host has booted since.
func rebootHost(ctx context.Context, e *Env, s plan.Step) error {
	_, c, err := e.target(s)
	if err != nil {
		return err
	}
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	before, err := machine.BootID.On(ctx, c, struct{}{})
	if err != nil {
		return err
	}
	if err := e.maintained(ctx, client, s, s.Host, func(m *facts.Maintenance, _ bool) { m.Reboot = before }); err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	if _, err := machine.Reboot.Make(ctx, c, permit, before); err != nil && c.Err() == nil {
		return err // otherwise its session ended, as it should
	}
	told := time.Now()
	ctx, cancel := withDeadline(ctx, bootTimeout, "the reboot of "+s.Host)
	defer cancel()
	said := ""
	return retry(ctx, 2*time.Second, func(ctx context.Context) error {
		now, err := machine.BootID.On(ctx, c, struct{}{})
		if err == nil && now == before {
			if time.Since(told) > rebootAgain { // the session may have ended before the host was told
				told = time.Now()
				_, err = machine.Reboot.Make(ctx, c, permit, before)
			}
			err = cmp.Or(err, errors.New("it has not gone down yet"))
		}
		if err != nil {
			if text := firstLine(err.Error()); text != said {
				said = text
				e.note(s, text)
			}
			return fmt.Errorf("%s has not booted: %w", s.Host, err)
		}
		return nil
	})
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
