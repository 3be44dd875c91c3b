// Package distill trains a student model on text, by what a teacher model
// predicts there.
package distill
