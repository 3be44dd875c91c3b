package calibrate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"llmc/formats/raw"
	"llmc/internal/fault"
	"llmc/kernels"
	"llmc/model"
)

// Journal keeps what a walk makes of each block in a folder, as it goes, so
// that a walk that was ended, however, can be taken up where it was and ends in
// the same bits. The hidden states are not kept: they are computed again from
// the finished blocks, which is the cheapest part of a walk.
//
// A block is believed when it is whole, by its checksum, and belongs to the same
// facts; otherwise it is done again. A Journal is for one program at a time.
type Journal struct {
	// Damaged lists the blocks that were kept and cannot be believed.
	Damaged []int

	dir    string
	lock   *os.File
	run    string // digest of the facts
	blocks map[int]*keptBlock
	noted  bool // there are notes
}

// Fact is something that the result depends on: the model, the text, a flag.
type Fact struct {
	Name  string `json:"name"`  // "--damp", "the model"
	Value string `json:"value"` // shown when it differs, but for digests
	// Digest is set for values that mean nothing to people.
	Digest bool `json:"digest,omitempty"`
}

// keptBlock is a finished block, mapped.
type keptBlock struct {
	mapping *raw.Mapping
	tensors []keptTensor
	saved   json.RawMessage
}

const (
	lockName    = "lock"
	factsName   = "run.json"
	writingName = "writing"
	notePrefix  = "note-"
)

// journalFiles are all names that a journal's folder can hold: its own, those of
// files that were being written, and of hidden states.
var journalFiles = regexp.MustCompile(`^(lock|run\.json|writing|state|note-[a-z]+|block-[0-9]{4,}|\.(run\.json|writing|state|note-[a-z]+|block-[0-9]{4,})\.llmc-[0-9a-f]{12}|\.llmc-activations-[0-9]+)$`)

// JournalDir is where the journal of an output is: a hidden folder beside it.
func JournalDir(output string) string {
	clean := filepath.Clean(output)
	return filepath.Join(filepath.Dir(clean), fmt.Sprintf(".%.200s%s", filepath.Base(clean), resumeSuffix))
}

// The ends of a journal's name: in use, and while it is removed.
const (
	resumeSuffix = ".llmc-resume"
	doneSuffix   = ".llmc-done"
)

// Unfinished is how many blocks an unfinished walk has left in a folder, and
// whether it has left anything, before it is known what that is worth.
func Unfinished(dir string) (blocks int, any bool) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, false
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "block-") {
			blocks++
		}
		any = any || strings.HasPrefix(entry.Name(), notePrefix)
	}
	return blocks, any || blocks > 0
}

// OpenJournal begins a journal in a folder, or takes up the one that is there,
// if resume is set and it was begun with the same facts. Without resume, what
// is there is removed. Its blocks are only used by a [Walk] over the model that
// the facts speak of; the caller closes it when nothing of the walk is needed
// any more.
func OpenJournal(dir string, facts []Fact, resume bool) (*Journal, error) {
	facts = append(facts[:len(facts):len(facts)], Fact{Name: "the machine", Value: runtime.GOARCH})
	text, err := json.MarshalIndent(facts, "", "  ")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	j := &Journal{dir: dir, run: hex.EncodeToString(sum[:16]), blocks: map[int]*keptBlock{}}
	err = os.Mkdir(dir, 0o777)
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("cannot create the folder %s for finished blocks: %w", dir, raw.Cause(err))
	}
	if j.lock, err = lockFile(filepath.Join(dir, lockName)); err != nil {
		return nil, fmt.Errorf("cannot use the folder %s for finished blocks: %w", dir, raw.Cause(err))
	}
	if err := j.open(facts, text, resume); err != nil {
		j.Close()
		if made {
			_ = removeFiles(dir, true) // the error that led here says more
		}
		return nil, err
	}
	return j, nil
}

// lockFile opens a file that only one program at a time can have open so. The
// lock goes when the file is closed or the program ends, however it does.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	if errors.Is(raw.Lock(f), raw.ErrLocked) {
		f.Close()
		return nil, fault.Usage("another llmc is at work on this output")
	}
	return f, nil // a file system without locks has to do without
}

// open reads what is there, or begins anew.
func (j *Journal) open(facts []Fact, text []byte, resume bool) error {
	if resume {
		old, err := os.ReadFile(filepath.Join(j.dir, factsName))
		if err == nil {
			if err := sameFacts(old, facts); err != nil {
				return err
			}
			return j.read()
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot read %s: %w", filepath.Join(j.dir, factsName), raw.Cause(err))
		}
	}
	if err := removeFiles(j.dir, false); err != nil {
		return err
	}
	return j.put(factsName, func(f *raw.File) error {
		_, err := f.Write(text)
		return err
	})
}

// sameFacts returns an error that says what differs from the facts of a
// journal's file.
func sameFacts(text []byte, facts []Fact) error {
	const hint = "take what it was begun with, or begin again with --force"
	var old []Fact
	if err := json.Unmarshal(text, &old); err != nil {
		return fault.Hint(fault.Invalid("the unfinished run's record of what it was begun with is damaged"), "begin again with --force")
	}
	was := map[string]Fact{}
	for _, f := range old {
		was[f.Name] = f
	}
	var differ []string
	for _, f := range facts {
		o, ok := was[f.Name]
		delete(was, f.Name)
		switch {
		case o == f:
		case f.Digest:
			differ = append(differ, f.Name+" is not the same")
		case !ok:
			differ = append(differ, fmt.Sprintf("%s was not known and is %q", f.Name, f.Value))
		default:
			differ = append(differ, fmt.Sprintf("%s was %q and is %q", f.Name, o.Value, f.Value))
		}
	}
	for _, f := range old {
		if _, left := was[f.Name]; left {
			differ = append(differ, fmt.Sprintf("%s was %q and is not known", f.Name, f.Value))
		}
	}
	if len(differ) == 0 {
		return nil
	}
	return fault.Hint(fault.Usage("the unfinished run cannot be resumed: %s", strings.Join(differ, ", ")), hint)
}

// read maps the finished blocks and removes what is no use.
func (j *Journal) read() error {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return fmt.Errorf("cannot read the folder %s: %w", j.dir, raw.Cause(err))
	}
	for _, entry := range entries {
		var i int
		switch name := entry.Name(); {
		case strings.HasPrefix(name, ".") && journalFiles.MatchString(name):
			os.Remove(j.path(name)) // was being written
		case !strings.HasPrefix(name, "block-") || !journalFiles.MatchString(name):
		default:
			if _, err := fmt.Sscanf(name, "block-%d", &i); err != nil {
				continue
			}
			mapping, header, tensors, err := readBlockFile(j.path(name))
			if err == nil && header.Run == j.run && header.Block == i {
				j.blocks[i] = &keptBlock{mapping, tensors, header.Saved}
				continue
			}
			j.Damaged = append(j.Damaged, i)
			if err == nil {
				mapping.Close()
			}
		}
	}
	return nil
}

// Blocks is the number of blocks that are finished.
func (j *Journal) Blocks() int { return len(j.blocks) }

// keep stores a finished block and gives it back as it is stored.
func (j *Journal) keep(block int, tensors []keptTensor, saved json.RawMessage) (*keptBlock, error) {
	name := fmt.Sprintf("block-%04d", block)
	err := j.put(name, func(f *raw.File) error {
		return writeBlock(f, blockHeader{Run: j.run, Block: block, Saved: saved}, tensors)
	})
	if err != nil {
		return nil, err
	}
	mapping, _, tensors, err := readBlockFile(j.path(name))
	if err != nil {
		return nil, fmt.Errorf("%s does not read back as it was written: %w", j.path(name), err)
	}
	j.blocks[block] = &keptBlock{mapping, tensors, saved}
	return j.blocks[block], nil
}

// Note keeps a value beside the blocks, as JSON: something that the run has found
// out before the first block. name is of small letters.
func (j *Journal) Note(name string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	j.noted = true
	return j.put(notePrefix+name, func(f *raw.File) error {
		_, err := fmt.Fprintf(f, "%s\n%s", j.noteSum(text), text)
		return err
	})
}

// Noted reads a value that was kept, and reports whether there is one that can
// be believed.
func (j *Journal) Noted(name string, value any) bool {
	all, err := os.ReadFile(j.path(notePrefix + name))
	if err != nil {
		return false
	}
	sum, text, _ := bytes.Cut(all, []byte("\n"))
	if string(sum) != j.noteSum(text) || json.Unmarshal(text, value) != nil {
		return false
	}
	j.noted = true
	return true
}

// Empty reports whether there is nothing worth resuming for.
func (j *Journal) Empty() bool { return len(j.blocks) == 0 && !j.noted }

// noteSum is the checksum of a note of this run.
func (j *Journal) noteSum(text []byte) string {
	sum := sha256.New()
	sum.Write([]byte(j.run))
	sum.Write(text)
	return hex.EncodeToString(sum.Sum(nil))
}

// MarkWriting notes that from now on the output may be there, so that a run that
// resumes knows it for its own. See IsWriting.
func (j *Journal) MarkWriting() error {
	return j.put(writingName, func(*raw.File) error { return nil })
}

// IsWriting reports whether an unfinished run in a folder had begun to write
// its output.
func IsWriting(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, writingName))
	return err == nil
}

// ForgetWriting says that what is at an output's place is no more the unfinished
// run's: another run is about to write there.
func ForgetWriting(dir string) error {
	if err := os.Remove(filepath.Join(dir, writingName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %s: %w", filepath.Join(dir, writingName), raw.Cause(err))
	}
	return nil
}

func (j *Journal) path(name string) string { return filepath.Join(j.dir, name) }

// put writes a file whole or not at all.
func (j *Journal) put(name string, write func(*raw.File) error) error {
	f, err := raw.CreateFile(j.path(name), true)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := write(f); err != nil {
		return err
	}
	return f.Commit()
}

// removeFiles removes a journal's files from a folder, all but the lock unless
// the lock and the folder are to go, too.
func removeFiles(dir string, folder bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot read the folder %s: %w", dir, raw.Cause(err))
	}
	var names []string
	for _, entry := range entries {
		if name := entry.Name(); journalFiles.MatchString(name) && (folder || name != lockName) {
			names = append(names, filepath.Join(dir, name))
		}
	}
	if folder {
		names = append(names, dir)
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("cannot remove %s: %w", name, raw.Cause(err))
		}
	}
	return nil
}

// Remove takes the journal off the disk: there is nothing to resume any more.
// Its blocks can be used until Close. A folder with files of others in it stays.
func (j *Journal) Remove() error {
	// A new name first: a journal that is half gone would be taken up.
	done := doneDir(j.dir)
	if err := os.Rename(j.dir, done); err == nil {
		j.dir = done
	}
	j.lock.Close() // some systems remove no file that is open
	return removeFiles(j.dir, true)
}

// Sweep removes what is left of a journal that Remove was about to remove when
// the program was killed.
func Sweep(dir string) error {
	done := doneDir(dir)
	if _, err := os.Lstat(done); err != nil {
		return nil
	}
	return removeFiles(done, true)
}

func doneDir(dir string) string { return strings.TrimSuffix(dir, resumeSuffix) + doneSuffix }

// Close lets go of the journal, which stays on the disk unless it was removed.
// The weights that the walk has put in place are gone with it.
func (j *Journal) Close() {
	for _, b := range j.blocks {
		b.mapping.Close()
	}
	j.blocks = map[int]*keptBlock{}
	j.lock.Close()
}

// restore puts the tensors of a finished block in their place; -1 is what is
// outside of the blocks.
func (b *keptBlock) restore(w *model.Weights, block int) {
	for _, k := range b.tensors {
		id := k.id
		id.Block = block
		if k.vector {
			w.ReplaceVector(id, kernels.Float32s(k.matrix))
		} else {
			w.Replace(id, k.matrix)
		}
	}
}

// replacedIn lists the tensors of a block that have been replaced.
func replacedIn(w *model.Weights, block int) ([]keptTensor, error) {
	var list []keptTensor
	for _, id := range w.Config.IDs() {
		if id.Block != block || !w.Replaced(id) {
			continue
		}
		k := keptTensor{id: id}
		var err error
		if id.Role.IsMatrix() && !id.Bias {
			k.matrix, err = w.Matrix(id)
		} else {
			var v []float32
			v, err = w.Vector(id)
			k.vector, k.matrix = true, kernels.FromFloat32s(1, len(v), v)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	return list, nil
}
