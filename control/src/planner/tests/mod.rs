mod apart;
mod evidence;
mod history;
mod rows;
mod runs;
mod sim;
