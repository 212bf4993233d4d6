mod bakes;
mod control;
mod nodes;
mod operator;
mod rules;
mod troubles;
