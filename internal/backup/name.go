package backup

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// Name is what the name of a backup says without its content. Several clusters can share a store: retention looks only at
// backups of the same cluster.
type Name struct {
	Cluster string `json:"cluster"`
	UID     string `json:"uid"` // the beginning of the cluster's UID
	// Etcd is the beginning of the ID of its etcd. A cluster that was restored has the UID of the one before and another etcd.
	Etcd string    `json:"etcd"`
	Time time.Time `json:"time"`
	Host string    `json:"host"`
}

const (
	timeLayout = "20060102T150405Z"
	// idLength is enough to tell the clusters of a name apart that somebody may have had.
	idLength = 8
)

var namePattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?)\.([0-9a-f]{8})\.([0-9a-f]{8})\.([0-9]{8}T[0-9]{6}Z)\.([a-z0-9]([a-z0-9-]*[a-z0-9])?)\.backup\.age$`)

// NameOf is the name of a backup. A name that could not be read again is an error: nobody would find the backup.
func NameOf(m Manifest) (Name, error) {
	out := Name{m.Cluster.Name, short(m.Cluster.UID), short(m.Etcd.ClusterID), m.Created.UTC().Truncate(time.Second), m.Host}
	if back, ok := ParseName(out.String()); !ok || back != out {
		return Name{}, fmt.Errorf("%q would not be found as the name of a backup of %q, taken by %q: these names must consist of a-z, 0-9, and -", out, m.Cluster.Name, m.Host)
	}
	return out, nil
}

func short(id string) string { return id[:min(idLength, len(id))] }

// String is the name of the file: cluster.uid.etcd.time.host.backup.age.
func (n Name) String() string {
	return fmt.Sprintf("%s.%s.%s.%s.%s.backup.age", n.Cluster, n.UID, n.Etcd, n.Time.UTC().Format(timeLayout), n.Host)
}

// ParseName reads the name of a file. It is false for files that are no backups.
func ParseName(file string) (Name, bool) {
	m := namePattern.FindStringSubmatch(file)
	if m == nil {
		return Name{}, false
	}
	at, err := time.Parse(timeLayout, m[5])
	return Name{m[1], m[3], m[4], at, m[6]}, err == nil
}

// Same says that two backups are of the same cluster.
func (n Name) Same(o Name) bool { return n.Cluster == o.Cluster && n.UID == o.UID && n.Etcd == o.Etcd }

// Of says that the backup is one of a cluster with this name, this UID, and this ID of its etcd. What is empty is not known.
func (n Name) Of(cluster, uid, etcd string) bool {
	return n.Cluster == cluster && (uid == "" || n.UID == short(uid)) && (etcd == "" || n.Etcd == short(etcd))
}

// Entry is a backup in a store.
type Entry struct {
	Name
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

// Newest sorts entries by time, the newest first.
func Newest(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.File, b.File)) })
}
