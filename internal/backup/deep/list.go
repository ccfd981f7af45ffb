package deep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
)

const (
	// pageObjects is how many objects are asked for at a time.
	pageObjects = 500
	// mostUnreadable is how many unreadable objects of a kind are looked for.
	mostUnreadable = 20
	// discoveryTimeout is how long an API server may take until it serves the custom resources that are in etcd.
	discoveryTimeout = 2 * time.Minute
	discoveryPace    = 100 * time.Millisecond
)

// notStored are kinds without objects of their own: the API server asks other programs for the first, and the second are the events of
// the core group under another name.
var notStored = []schema.GroupResource{{Resource: "componentstatuses"}, {Group: "events.k8s.io", Resource: "events"}}

// lister has an API server read all objects at a revision.
type lister struct {
	client   kubernetes.Interface
	meta     metadata.Interface
	revision int64
	keys     *keys
	report   *Report
}

// resource is a kind of object that can be listed.
type resource struct {
	schema.GroupVersionResource
	kind       string
	namespaced bool
	custom     *definition // nil if it is built in
}

func (r resource) places() []string { return placesOf(r.Group, r.Resource, r.custom != nil) }

// definition is what is needed of a CustomResourceDefinition.
type definition struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		Group string `json:"group"`
		Names struct {
			Plural string `json:"plural"`
		} `json:"names"`
		Versions []struct {
			Name    string `json:"name"`
			Served  bool   `json:"served"`
			Storage bool   `json:"storage"`
		} `json:"versions"`
		Conversion struct {
			Strategy string `json:"strategy"`
		} `json:"conversion"`
	} `json:"spec"`
	Status struct {
		Conditions []metav1.Condition `json:"conditions"`
	} `json:"status"`
}

func (d definition) resource() schema.GroupResource {
	return schema.GroupResource{Group: d.Spec.Group, Resource: d.Spec.Names.Plural}
}

// version is the version to read: the one that is stored, so that nothing has to be converted, if it is served. It is empty if none is.
func (d definition) version() (out string) {
	for _, v := range d.Spec.Versions {
		if v.Served && (out == "" || v.Storage) {
			out = v.Name
		}
	}
	return out
}

func (d definition) established() bool {
	return slices.ContainsFunc(d.Status.Conditions, func(c metav1.Condition) bool { return c.Type == "Established" && c.Status == metav1.ConditionTrue })
}

// converts says that something in the cluster converts its objects between versions.
func (d definition) converts() bool { return d.Spec.Conversion.Strategy == "Webhook" }

// service is what is needed of an APIService.
type service struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		Group   string `json:"group"`
		Version string `json:"version"`
		Service *struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"service"`
	} `json:"spec"`
}

func (l *lister) all(ctx context.Context) error {
	custom, err := objects[definition](ctx, l, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
	if err != nil {
		return fmt.Errorf("listing the CustomResourceDefinitions: %w", err)
	}
	services, err := objects[service](ctx, l, "/apis/apiregistration.k8s.io/v1/apiservices")
	if err != nil {
		return fmt.Errorf("listing the APIServices: %w", err)
	}
	elsewhere := map[schema.GroupVersion]bool{}
	for _, s := range services {
		if s.Spec.Service == nil {
			continue
		}
		elsewhere[schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}] = true
		l.report.NotServed = append(l.report.NotServed, NotServed{What: "the API " + s.Spec.Group + "/" + s.Spec.Version,
			Why: fmt.Sprintf("the Service %s in %s serves it, which keeps its objects itself", s.Spec.Service.Name, s.Spec.Service.Namespace)})
	}
	all, err := l.resources(ctx, custom, elsewhere)
	if err != nil {
		return err
	}
	for _, r := range all {
		if err := l.list(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// objects lists objects of which the content is needed.
func objects[T any](ctx context.Context, l *lister, path string) (out []T, _ error) {
	for next := ""; ; {
		request := l.client.Discovery().RESTClient().Get().AbsPath(path).Param("limit", strconv.Itoa(pageObjects))
		if next == "" {
			request = request.Param("resourceVersion", strconv.FormatInt(l.revision, 10)).Param("resourceVersionMatch", string(metav1.ResourceVersionMatchExact))
		} else {
			request = request.Param("continue", next)
		}
		data, err := request.DoRaw(ctx)
		if err != nil {
			return nil, err
		}
		var page struct {
			Metadata metav1.ListMeta `json:"metadata"`
			Items    []T             `json:"items"`
		}
		if err := json.Unmarshal(data, &page); err != nil {
			return nil, err
		}
		out = append(out, page.Items...)
		if next = page.Metadata.Continue; next == "" {
			return out, nil
		}
	}
}

// resources are all kinds of objects that can be listed, in the order of their names. It waits until the API server serves the custom ones.
func (l *lister) resources(ctx context.Context, custom []definition, elsewhere map[schema.GroupVersion]bool) ([]resource, error) {
	defined := map[schema.GroupResource]*definition{}
	for i, d := range custom {
		switch {
		case !d.established():
			l.notServed("the custom resource "+d.Metadata.Name, "its definition is not established in the cluster either", d)
		case d.version() == "":
			l.notServed("the custom resource "+d.Metadata.Name, "its definition serves no version", d)
		default:
			defined[d.resource()] = &custom[i]
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, discoveryTimeout, fmt.Errorf("the API server does not serve all custom resources after %s", discoveryTimeout))
	defer cancel()
	for {
		served, err := l.served(ctx, elsewhere)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx) // a list that was cut short is not the whole one
		}
		if err != nil {
			return nil, err
		}
		var out []resource
		missing := map[schema.GroupResource]bool{}
		for r := range defined {
			missing[r] = true
		}
		for _, r := range served {
			d := defined[r.GroupResource()]
			if d == nil {
				out = append(out, r)
				continue
			}
			if r.Version == d.version() {
				r.custom = d
				delete(missing, r.GroupResource())
				out = append(out, r)
			}
		}
		if len(missing) == 0 {
			return preferred(out), nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(discoveryPace):
		}
	}
}

// served are all versions of all kinds that can be listed, the preferred version of a group first.
func (l *lister) served(ctx context.Context, elsewhere map[schema.GroupVersion]bool) (out []resource, _ error) {
	_, lists, err := discovery.ToDiscoveryInterfaceWithContext(l.client.Discovery()).ServerGroupsAndResourcesWithContext(ctx)
	var partly *discovery.ErrGroupDiscoveryFailed
	if err != nil && !errors.As(err, &partly) {
		return nil, fmt.Errorf("asking the API server for its kinds of objects: %w", err)
	}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		if elsewhere[gv] {
			continue
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "list") || slices.Contains(notStored, gv.WithResource(r.Name).GroupResource()) {
				continue
			}
			out = append(out, resource{GroupVersionResource: gv.WithResource(r.Name), kind: r.Kind, namespaced: r.Namespaced})
		}
	}
	return out, nil
}

// preferred keeps one version of each kind, the first one, and sorts them by name.
func preferred(all []resource) (out []resource) {
	seen := map[schema.GroupResource]bool{}
	for _, r := range all {
		if gr := r.GroupResource(); !seen[gr] {
			seen[gr] = true
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b resource) int {
		return strings.Compare(a.GroupResource().String(), b.GroupResource().String())
	})
	return out
}

// notServed reports a custom resource that cannot be listed, and accounts for its keys.
func (l *lister) notServed(what, why string, d definition) {
	n := NotServed{What: what, Why: why}
	at := placesOf(d.Spec.Group, d.Spec.Names.Plural, true)
	for _, namespaced := range []bool{false, true} {
		for _, key := range l.keys.left(at, namespaced) {
			l.keys.claimed[key] = true
			n.Keys++
		}
	}
	l.report.NotServed = append(l.report.NotServed, n)
}

// list has the API server read all objects of a kind. Its error means that nothing more can be asked.
func (l *lister) list(ctx context.Context, r resource) error {
	k := Kind{Group: r.Group, Version: r.Version, Resource: r.Resource, Kind: r.kind}
	options := metav1.ListOptions{Limit: pageObjects, ResourceVersion: strconv.FormatInt(l.revision, 10), ResourceVersionMatch: metav1.ResourceVersionMatchExact}
	var failed error
	for {
		page, err := l.meta.Resource(r.GroupVersionResource).List(ctx, options)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			failed = err
			break
		}
		for _, o := range page.Items {
			k.Objects++
			l.keys.claim(r.places(), o.Namespace, o.Name)
		}
		if page.Continue == "" {
			break
		}
		options = metav1.ListOptions{Limit: pageObjects, Continue: page.Continue}
	}
	if failed != nil {
		var status apierrors.APIStatus
		if !errors.As(failed, &status) {
			return fmt.Errorf("listing %s: %w", k.Name(), failed) // the API server does not answer
		}
		if r.custom != nil && r.custom.converts() {
			l.notServed("the custom resource "+k.Name(), "a webhook in the cluster converts its objects, and it does not run here: "+failed.Error(), *r.custom)
			return nil
		}
	}
	if err := l.rest(ctx, r, &k, failed); err != nil {
		return err
	}
	l.report.Kinds = append(l.report.Kinds, k)
	return nil
}

// rest looks at the objects of a kind that are in etcd and were not listed, one after the other: an API server lists no objects of a page if it
// cannot read one of them.
func (l *lister) rest(ctx context.Context, r resource, k *Kind, failed error) error {
	locked := map[string]int{} // by the mark of a KMS provider
	for _, key := range l.keys.left(r.places(), r.namespaced) {
		if mark := l.keys.kms[key]; mark != "" {
			l.keys.claimed[key] = true
			locked[mark]++
			continue
		}
		if len(k.Unreadable) == mostUnreadable {
			k.More = true
			l.keys.claimed[key] = true
			continue
		}
		namespace, name := "", key[strings.LastIndex(key, "/")+1:]
		if r.namespaced {
			rest := strings.TrimSuffix(key, "/"+name)
			namespace = rest[strings.LastIndex(rest, "/")+1:]
		}
		_, err := l.meta.Resource(r.GroupVersionResource).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && failed != nil:
			k.Objects++
		case err == nil:
			k.Unreadable = append(k.Unreadable, Unreadable{key, "the API server does not list it"})
		case apierrors.IsNotFound(err) && failed == nil:
			continue // it belongs to another kind
		case apierrors.IsNotFound(err):
			// It has expired since, as events do.
		default:
			k.Unreadable = append(k.Unreadable, Unreadable{key, err.Error()})
		}
		l.keys.claimed[key] = true
	}
	for mark, n := range locked {
		l.report.NotServed = append(l.report.NotServed, NotServed{What: k.Name(), Keys: n,
			Why: "the KMS provider " + strings.Split(mark, ":")[4] + " has their keys, and it is not reached from here"})
	}
	if failed != nil && len(k.Unreadable) == 0 && len(locked) == 0 {
		k.Error = failed.Error()
	}
	return nil
}
