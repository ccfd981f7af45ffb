package probe

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// counted is the object that is counted up.
func counted(version, number int) corev1.ConfigMap {
	return corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: beat, ResourceVersion: strconv.Itoa(version)}, Data: map[string]string{beatKey: strconv.Itoa(number)}}
}

func TestWatchGuarantees(t *testing.T) {
	foreign := counted(105, 8)
	foreign.Name = "read"
	for name, c := range map[string]struct {
		watch func(w *watcher)
		want  map[string]int
		from  string // where it resumes
	}{
		"in order":                    {watch: func(w *watcher) { w.event(counted(105, 8)); w.event(counted(1000, 9)) }, from: "1000"},
		"something else was changed":  {watch: func(w *watcher) { w.event(counted(105, 7)) }, from: "105"},
		"a bookmark":                  {watch: func(w *watcher) { w.bookmark(counted(120, 0)); w.event(counted(121, 8)) }, from: "121"},
		"a bookmark right afterwards": {watch: func(w *watcher) { w.event(counted(105, 8)); w.bookmark(counted(105, 0)) }, from: "105"},
		"the object again":            {watch: func(w *watcher) { w.event(counted(100, 7)) }, want: map[string]int{EventTwice: 1}, from: "100"},
		"an event twice": {watch: func(w *watcher) { w.event(counted(105, 8)); w.event(counted(105, 8)); w.event(counted(106, 9)) },
			want: map[string]int{EventTwice: 1}, from: "106"},
		"in another order": {watch: func(w *watcher) {
			w.event(counted(105, 8))
			w.event(counted(107, 10))
			w.event(counted(106, 9))
			w.event(counted(108, 11))
		},
			want: map[string]int{EventMissing: 1, EventLate: 1}, from: "108"},
		"after its bookmark": {watch: func(w *watcher) { w.bookmark(counted(120, 0)); w.event(counted(119, 8)) },
			want: map[string]int{EventLate: 1}, from: "120"},
		"a bookmark too late": {watch: func(w *watcher) { w.event(counted(105, 8)); w.bookmark(counted(104, 0)) },
			want: map[string]int{EventLate: 1}, from: "105"},
		"missing": {watch: func(w *watcher) { w.event(counted(105, 9)) }, want: map[string]int{EventMissing: 1}, from: "105"},
		"set back": {watch: func(w *watcher) { w.event(counted(105, 6)); w.event(counted(106, 7)) },
			want: map[string]int{SetBack: 1}, from: "106"},
		"another object":         {watch: func(w *watcher) { w.event(foreign); w.event(counted(106, 8)) }, want: map[string]int{EventForeign: 1}, from: "106"},
		"read again":             {watch: func(w *watcher) { w.event(counted(105, 8)); w.begin(counted(105, 8)) }, from: "105"},
		"read again, and newer":  {watch: func(w *watcher) { w.event(counted(105, 8)); w.begin(counted(109, 9)) }, want: map[string]int{EventsLost: 1}, from: "109"},
		"read again, and older":  {watch: func(w *watcher) { w.event(counted(105, 8)); w.begin(counted(100, 7)) }, want: map[string]int{SetBack: 1}, from: "100"},
		"an older one, restored": {watch: func(w *watcher) { w.event(counted(105, 8)); w.begin(counted(200, 7)) }, want: map[string]int{SetBack: 1}, from: "200"},
	} {
		w := &watcher{record: &record{}}
		begin := time.Now()
		w.begin(counted(100, 7))
		c.watch(w)
		got := w.record.between(begin, time.Now().Add(time.Second))
		if !maps.Equal(got.Errors, c.want) || w.version != c.from {
			t.Errorf("%s: %v, and it resumes from %s; want %v, %s", name, got.Errors, w.version, c.want, c.from)
		}
		gaps := 0
		for _, n := range c.want {
			gaps += n
		}
		if n := WatchGaps(got.Errors); n != gaps {
			t.Errorf("%s: %d gaps, want %d", name, n, gaps)
		}
	}
	if n := WatchGaps(map[string]int{TimedOut: 3, "no event": 1}); n != 0 {
		t.Errorf("%d gaps because nobody answered", n)
	}
}

// TestBeatNeverGoesBack lets a write get no answer: it happens anyway, or a hung API server carries it out when others have counted on.
func TestBeatNeverGoesBack(t *testing.T) {
	for name, immediately := range map[string]bool{"it happens": true, "it comes late": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			version, numbers := 100, []int{0} // all that the object ever had
			var hung *corev1.ConfigMap        // the write that gets no answer
			write := func(o corev1.ConfigMap) bool {
				if o.ResourceVersion != "" && o.ResourceVersion != strconv.Itoa(version) {
					return false
				}
				version, numbers = version+1, append(numbers, number(o))
				return true
			}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPatch {
					var o corev1.ConfigMap
					text, _ := io.ReadAll(r.Body)
					if err := json.Unmarshal(text, &o); err != nil {
						t.Error(err)
					}
					mu.Lock()
					hangs := number(o) == 2 && hung == nil
					if hangs {
						hung = &o
					}
					written := (!hangs || immediately) && write(o)
					mu.Unlock()
					if hangs {
						silence(r)
					}
					if !written {
						http.Error(w, "conflict", http.StatusConflict)
						return
					}
				}
				mu.Lock()
				defer mu.Unlock()
				json.NewEncoder(w).Encode(counted(version, numbers[len(numbers)-1]))
			}))
			defer server.Close()
			sender, err := newClient(&rest.Config{Host: server.URL}, New)
			if err != nil {
				t.Fatal(err)
			}
			c := &counter{client: sender, namespace: "x"}
			var failures []failure
			for range 4 {
				failures = append(failures, c.count())
			}
			mu.Lock()
			if !immediately {
				write(*hung)
			}
			mu.Unlock()
			failures = append(failures, c.count())
			if want := []failure{{}, {Header, TimedOut}, {}, {}, {}}; !slices.Equal(failures, want) {
				t.Errorf("%v, want %v", failures, want)
			}
			want := []int{0, 1, 2, 3, 4}
			if immediately {
				want = append(want, 5)
			}
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(numbers, want) {
				t.Errorf("the object had %v, want %v", numbers, want)
			}
		})
	}
}

// TestBeatsTogether has two processes count in one object, and one write conflict with that of the other.
func TestBeatsTogether(t *testing.T) {
	version, number, others := 100, 7, 3
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch {
			var o corev1.ConfigMap
			if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
				t.Error(err)
			}
			if others > 0 { // another one was faster
				version, number, others = version+1, number+1, others-1
			}
			if o.ResourceVersion != strconv.Itoa(version) || o.Data[beatKey] != strconv.Itoa(number+1) {
				http.Error(w, "conflict", http.StatusConflict)
				return
			}
			version, number = version+1, number+1
		}
		json.NewEncoder(w).Encode(counted(version, number))
	}))
	defer server.Close()
	sender, err := newClient(&rest.Config{Host: server.URL}, New)
	if err != nil {
		t.Fatal(err)
	}
	c := &counter{client: sender, namespace: "x"}
	if got := c.count(); got != (failure{}) || number != 11 {
		t.Errorf("%v, and the number is %d", got, number)
	}
	others = 1000
	if got := c.count(); got != rejected(http.StatusConflict) {
		t.Errorf("it always conflicts: %v", got)
	}
	if tried := 1000 - others; tried != repeats+1 {
		t.Errorf("it was tried %d times", tried)
	}
}
