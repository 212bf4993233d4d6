mod argocd;
mod bakes;
mod control;
mod kueue;
mod nodes;
mod operator;
mod rules;
mod troubles;
