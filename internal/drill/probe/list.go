package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"strconv"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// listed is how many objects List clients list, and page how many of them in one request: so each list needs several.
	listed = 300
	page   = 100
)

// leasesPath is what List clients list: Leases, which nothing else in the namespace uses. ConfigMaps would grow with the ledgers, and the
// list would become slower with every write.
func leasesPath(namespace string) string {
	return path.Join("/apis/coordination.k8s.io/v1/namespaces", namespace, "leases")
}

// createLeases creates what List clients list.
func createLeases(ctx context.Context, api kubernetes.Interface, namespace string) error {
	for n := range listed {
		err := create(ctx, func() error {
			_, err := api.CoordinationV1().Leases(namespace).Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("listed-%d", n)}}, metav1.CreateOptions{})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// list lists everything at a path, page by page. It fails if one page does.
func (c *client) list(ctx context.Context, path string) failure {
	query := url.Values{"limit": {strconv.Itoa(page)}}
	for {
		next, failed := c.page(ctx, path+"?"+query.Encode())
		if failed.text != "" || next == "" {
			return failed
		}
		query.Set("continue", next)
	}
}

// page reads one page, and returns how the next one is asked for; empty if it was the last.
func (c *client) page(ctx context.Context, path string) (next string, failed failure) {
	resp, failed := c.open(ctx, "GET", path, "", "")
	if failed.text != "" {
		return "", failed
	}
	defer resp.Body.Close()
	var list struct {
		Metadata struct{ Continue string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return "", failure{Body, describe(err)}
	}
	return list.Metadata.Continue, failure{}
}
