package tokenizer

// trie finds which of a set of strings a text begins with. The zero value is
// empty; the root is node 0.
type trie struct {
	root   [256]int32 // children of the root, 0 if none
	edges  pairMap    // node and byte to child
	values []int32    // what insert set for the string that ends at the node, -1 if none
}

// insert adds a string that is not empty, or changes its value.
func (t *trie) insert(s string, value int32) {
	if len(t.values) == 0 {
		t.values = append(t.values, -1)
	}
	node := int32(0)
	for i := range len(s) {
		next := t.step(node, s[i])
		if next == 0 {
			next = int32(len(t.values))
			t.values = append(t.values, -1)
			if node == 0 {
				t.root[s[i]] = next
			} else {
				t.edges.put(pairKey(node, int32(s[i])), next, 0)
			}
		}
		node = next
	}
	t.values[node] = value
}

// step returns the child of node for b, 0 if there is none.
func (t *trie) step(node int32, b byte) int32 {
	if node == 0 {
		return t.root[b]
	}
	next, _, _ := t.edges.get(pairKey(node, int32(b)))
	return next
}

// longest returns the length and value of the longest string in t that text
// begins with, and 0 if there is none.
func (t *trie) longest(text string) (length int, value int32) {
	node := int32(0)
	for i := range len(text) {
		if node = t.step(node, text[i]); node == 0 {
			break
		}
		if v := t.values[node]; v >= 0 {
			length, value = i+1, v
		}
	}
	return length, value
}

// common returns how many bytes of text some string in t begins with.
func (t *trie) common(text string) int {
	node := int32(0)
	for i := range len(text) {
		if node = t.step(node, text[i]); node == 0 {
			return i
		}
	}
	return len(text)
}
