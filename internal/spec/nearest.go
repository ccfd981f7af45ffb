package spec

import "strings"

// Nearest returns the candidate that the word was most likely meant to be, or "" if none comes close.
// Case, dashes and underscores do not count: `pod_cidr` is podCIDR.
func Nearest(word string, candidates []string) string {
	w := fold(word)
	// A third of the letters may be wrong: more, and the guess would mislead rather than help.
	best, limit := "", (len(w)+2)/3
	for _, c := range candidates {
		if d := distance(w, fold(c)); d <= limit {
			best, limit = c, d-1
		}
	}
	return best
}

func fold(s string) string {
	return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s))
}

// distance counts the insertions, deletions, replacements and swaps of neighbors between a and b (optimal string alignment): a
// swap is one slip of the fingers, not two.
func distance(a, b string) int {
	before, prev := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev = prev, row
	}
	return prev[len(b)]
}
