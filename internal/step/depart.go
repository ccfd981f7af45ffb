package step

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applyv1 "k8s.io/client-go/applyconfigurations/admissionregistration/v1"

	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/kube"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/spec"
)

// stopControlPlane ends the API server, controller manager and scheduler of a control plane that leaves. The API server answers
// the requests that it has.
func stopControlPlane(ctx context.Context, e *Env, s plan.Step) error {
	c, permit, err := e.permitted(ctx, s)
	if err != nil {
		return err
	}
	_, err = kubeadm.StopStaticPods.Make(ctx, c, permit, s.Pods)
	return err
}

// stopBalancer stops a load balancer that leaves.
func stopBalancer(ctx context.Context, e *Env, s plan.Step) error {
	c, permit, err := e.permitted(ctx, s)
	if err != nil {
		return err
	}
	if _, err = balancer.Retire.Make(ctx, c, permit, struct{}{}); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retired = append(e.retired, s.Host)
	return nil
}

// removeMember removes the etcd member of a host that leaves or is lost.
func removeMember(ctx context.Context, e *Env, s plan.Step) error {
	if _, err := e.permit(ctx, s); err != nil {
		return err
	}
	return e.leaveEtcd(ctx, s)
}

// leaveEtcd removes the member of a step through the others. The step has its permit.
func (e *Env) leaveEtcd(ctx context.Context, s plan.Step) error {
	i := slices.IndexFunc(e.Seen.Etcd, func(m facts.EtcdMember) bool { return m.ID == s.MemberID })
	if i < 0 {
		return fmt.Errorf("the etcd member %s was not among those that the plan was made for", s.MemberID)
	}
	return etcd.RemoveMember(ctx, e.otherMembers(s.Host), e.Seen.Etcd[i])
}

// otherMembers are the routes to the members on other hosts than one.
func (e *Env) otherMembers(than string) (out []etcd.Member) {
	for _, h := range e.Present.EtcdHosts() {
		seen := e.Seen.Hosts[h.Name].Facts
		if conn, err := e.Conns.Get(h.Name); err == nil && h.Name != than && seen != nil && seen.Kubernetes.EtcdData && e.Seen.OtherEtcdOn(h.Name) == "" {
			out = append(out, etcd.On(h.Name, h.Address, conn, nil, e.Seen))
		}
	}
	return out
}

// deleteNode removes a node. Its pods are replaced where they have a controller.
func deleteNode(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	if _, err := e.permit(ctx, s); err != nil {
		return err
	}
	return e.onNode(ctx, "deleting node "+s.Host, func(ctx context.Context) error {
		err := client.CoreV1().Nodes().Delete(ctx, s.Host, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// removedHostsPolicy keeps the kubelets of removed hosts from registering: their client certificates are valid until they expire.
const removedHostsPolicy = "quorate-removed-hosts"

// rememberHosts stores the hosts that were removed without being reset, and forbids their nodes to register.
func rememberHosts(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	err = func() error {
		ctx, cancel := withDeadline(ctx, time.Minute, "locking removed nodes out")
		defer cancel()
		return retry(ctx, 500*time.Millisecond, func(ctx context.Context) error { return lockOut(ctx, client, s.Nodes) })
	}()
	if err != nil {
		return err
	}
	return e.record(ctx, observe.RemovedKey, s.Record)
}

// lockOut forbids that nodes of these names are created.
func lockOut(ctx context.Context, client *kube.Client, nodes []string) error {
	policies, bindings := client.AdmissionregistrationV1().ValidatingAdmissionPolicies(), client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	if len(nodes) == 0 {
		for _, remove := range []func(context.Context, string, metav1.DeleteOptions) error{bindings.Delete, policies.Delete} {
			if err := remove(ctx, removedHostsPolicy, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		return nil
	}
	if _, err := policies.Apply(ctx, lockOutPolicy(nodes), force); err != nil {
		return err
	}
	_, err := bindings.Apply(ctx, applyv1.ValidatingAdmissionPolicyBinding(removedHostsPolicy).WithSpec(
		applyv1.ValidatingAdmissionPolicyBindingSpec().WithPolicyName(removedHostsPolicy).WithValidationActions(admissionv1.Deny)), force)
	return err
}

// lockOutPolicy is the policy. Names of nodes are DNS labels, so they need no quoting in CEL.
func lockOutPolicy(nodes []string) *applyv1.ValidatingAdmissionPolicyApplyConfiguration {
	return applyv1.ValidatingAdmissionPolicy(removedHostsPolicy).WithSpec(applyv1.ValidatingAdmissionPolicySpec().
		WithFailurePolicy(admissionv1.Fail).
		WithMatchConstraints(applyv1.MatchResources().WithResourceRules(applyv1.NamedRuleWithOperations().
			WithAPIGroups("").WithAPIVersions("v1").WithOperations(admissionv1.Create).WithResources("nodes"))).
		WithValidations(applyv1.Validation().WithExpression("!(object.metadata.name in ['" + strings.Join(nodes, "', '") + "'])").
			WithMessage("this host was removed from the cluster while it was down; quorate apply resets it")))
}

// nodesTimeout is how long new nodes may take to become Ready.
const nodesTimeout = 5 * time.Minute

// awaitNodes waits until new nodes are Ready. Those that wait for the user's own pod network are as ready as they can be.
func awaitNodes(ctx context.Context, e *Env, s plan.Step) error {
	client, err := e.api(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, nodesTimeout, "starting the new nodes")
	defer cancel()
	return retry(ctx, time.Second, func(ctx context.Context) error {
		api, err := observe.API(ctx, client)
		if err != nil {
			return err
		}
		var waiting []string
		for _, name := range s.Nodes {
			i := slices.IndexFunc(api.Nodes, func(n facts.Node) bool { return n.Name == name })
			switch {
			case i < 0:
				waiting = append(waiting, name+" has not registered")
			case !api.Nodes[i].Ready && !(api.Nodes[i].NoNetwork && e.Cluster.Spec.Network.CNI == spec.CNINone):
				waiting = append(waiting, name+" is not ready: "+api.Nodes[i].NotReady)
			}
		}
		return e.waiting(s, waiting)
	})
}
