// Package deep starts a real API server on the etcd of a restored backup and has it read every object: what etcd's own checks cannot tell
// is whether what is in etcd can be decrypted, decoded, and served.
//
// Nothing that it reads or starts can reach the cluster that the backup is of, or anything else: the API server listens on loopback, knows only
// certificates that were made for this occasion, and cannot connect to Services, webhooks, or nodes. What it writes when it starts goes into
// a copy of etcd that is thrown away, and everything is read at the revision of the backup, before those writes.
package deep

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/ui"
)

// Report is what an API server found in a backup.
type Report struct {
	// APIServer is the version of Kubernetes that read it.
	APIServer string `json:"apiServer"`
	Revision  int64  `json:"revision"`
	// Objects is how many objects were read, of all kinds.
	Objects int    `json:"objects"`
	Kinds   []Kind `json:"kinds"`
	// NotServed are kinds that cannot be read here, because something serves or converts them that runs in the cluster.
	NotServed []NotServed `json:"notServed,omitempty"`
	// Unclaimed are keys in etcd that no kind accounts for.
	Unclaimed []Unclaimed `json:"unclaimed,omitempty"`
	// Internal is the number of keys that are no objects, such as those that API servers allocate addresses with.
	Internal int           `json:"internal"`
	Took     time.Duration `json:"tookNanoseconds"`
}

// Kind is what was found of one kind of object.
type Kind struct {
	Group    string `json:"group,omitempty"`
	Version  string `json:"version"`
	Resource string `json:"resource"`
	Kind     string `json:"kind"`
	// Objects is how many were read.
	Objects int `json:"objects"`
	// Unreadable are objects that are in etcd and could not be read; More says that there may be more of them.
	Unreadable []Unreadable `json:"unreadable,omitempty"`
	More       bool         `json:"more,omitempty"`
	// Error is why the kind could not be listed, if that is not because of single objects.
	Error string `json:"error,omitempty"`
}

// Name is the resource with its group, as kubectl accepts it.
func (k Kind) Name() string {
	if k.Group == "" {
		return k.Resource
	}
	return k.Resource + "." + k.Group
}

// Unreadable is an object that the API server could not read.
type Unreadable struct {
	Key   string `json:"key"`
	Error string `json:"error"`
}

// NotServed is a kind, or a version of an API, that cannot be read here.
type NotServed struct {
	What string `json:"what"`
	Why  string `json:"why"`
	// Keys is how many keys in etcd were not looked at.
	Keys int `json:"keys"`
}

// Unclaimed are keys in etcd with a common beginning that no kind accounts for.
type Unclaimed struct {
	Below   string `json:"below"`
	Keys    int    `json:"keys"`
	Example string `json:"example"`
}

// Unreadable says how many objects could not be read, and of how many kinds; at least so many.
func (r Report) Unreadable() (objects, kinds int) {
	for _, k := range r.Kinds {
		if objects += len(k.Unreadable); len(k.Unreadable) > 0 || k.Error != "" {
			kinds++
		}
	}
	return objects, kinds
}

// Err is why the backup is not good; nil if every object was read that can be read here.
func (r Report) Err() error {
	objects, kinds := r.Unreadable()
	switch {
	case kinds == 0:
		return nil
	case objects == 0:
		return fmt.Errorf("an API server cannot list %s of objects in the backup", ui.Plural(kinds, "kind"))
	}
	return fmt.Errorf("an API server cannot read %s of %s in the backup", ui.Plural(objects, "object"), ui.Plural(kinds, "kind"))
}

// Look starts an API server of the bundle on the etcd of a backup, has it read every object, and ends it. It uses dir, which only
// this user may read, for its program and its keys; the caller removes it.
func Look(ctx context.Context, b *bundle.Bundle, r backup.Running, dir string) (Report, error) {
	begin := time.Now()
	out := Report{APIServer: b.Version(), Revision: r.Manifest.Etcd.Revision}
	flags, keys, err := backup.APIServer(r.Parts)
	if err != nil {
		return out, fmt.Errorf("reading the API server's flags in the backup: %w", err)
	}
	dir = filepath.Join(dir, "api")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return out, err
	}
	program := filepath.Join(dir, "kube-apiserver")
	if err := b.Program(ctx, "kube-apiserver", "kube-apiserver", program); err != nil {
		return out, err
	}
	if keys, err = encryption.WithoutKMS(keys); err != nil {
		return out, err
	}
	server, err := start(ctx, program, dir, r.Etcd.Endpoint(), flags, keys)
	if err != nil {
		return out, err
	}
	defer server.stop()
	found := newKeys(flags["etcd-prefix"])
	if err := r.Etcd.Keys(ctx, out.Revision, found.add); err != nil {
		return out, err
	}
	l := &lister{client: server.client, meta: server.meta, revision: out.Revision, keys: found, report: &out}
	if err := l.all(ctx); err != nil {
		return out, server.explain(err)
	}
	out.Unclaimed, out.Internal = found.unclaimed()
	for _, k := range out.Kinds {
		out.Objects += k.Objects
	}
	out.Took = time.Since(begin)
	return out, nil
}
