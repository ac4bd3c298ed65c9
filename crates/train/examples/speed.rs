//! scratch
use rankine_models::config::*; use rankine_models::model::*; use rankine_models::attach::*; use rankine_nn::lora::*; use rankine_data::*; use rankine_train::{objective::*,gradients::*,optimizer::*,config::*}; use rankine_nn::parameter::*;
use burn::tensor::Device; use std::time::Instant;
#[global_allocator] static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main(){
 let a: Vec<usize> = std::env::args().skip(1).map(|x|x.parse().unwrap()).collect();
 let (d,l,f,h,k,v,rows,t,full)=(a[0],a[1],a[2],a[3],a[4],a[5],a[6],a[7],a[8]);
 let config = DecoderConfig{model_type:"llama".into(),vocab_size:v,hidden_size:d,intermediate_size:f,num_hidden_layers:l,num_attention_heads:h,num_key_value_heads:k,head_dim:d/h,rms_norm_eps:1e-5,rope:RopeConfig{theta:10000.,scaling:RopeScaling::Default},sliding_window:vec![None;l],qkv_bias:false,o_bias:false,mlp_bias:false,qk_norm:false,tie_word_embeddings:true,max_position_embeddings:2048,initializer_range:0.02};
 println!("params {}", config.parameters());
 let mut m=Model::random(config.clone(),1,&Device::flex());
 let kind=if full==1{AdapterKind::Full}else{AdapterKind::Lora};
 let lay=AdapterLayout::resolve(&config,kind,&LoraConfig::default(),Tying::Kept).unwrap(); m.attach(&lay,1);
 let ex:Vec<Example>=(0..rows).map(|r|Example{input_ids:(0..t).map(|i|((i*7919+r*13)%v) as u32).collect(),labels:(0..t).map(|i|((i*7919+r*13)%v) as i64).collect(),completion_start:None,source:RecordSource{file:"x".into(),line:1},dataset:0}).collect();
 let rowsv:Vec<Vec<&Example>>=ex.iter().map(|e|vec![e]).collect();
 let b=Batch::from_examples(&rowsv,0);
 let mut o=Optimizer::new(OptimizerConfig{kind:OptimizerKind::Adamw,beta1:0.9,beta2:0.999,eps:1e-8,weight_decay:0.0,loraplus_lr_ratio:None});
 for s in 0..6 { let t0=Instant::now(); let mut p=Pass::Train(Noise::new(0,s,0)); let loss=supervised(&m,&b,&mut p,None); let lv:f32=loss.sum.clone().into_scalar(); let t1=Instant::now();
  let mut g=GradientSum::default(); g.add(&mut m,&mut loss.objective.backward()); let t2=Instant::now(); g.scale(1.0/loss.tokens as f64); g.clip(Some(1.0)); o.step(&mut m,&g,1e-3); let e=t0.elapsed().as_secs_f64();
  println!("loss {:.3} fwd {:.3} bwd {:.3} opt {:.3} tok/s {:.0}", lv/loss.tokens as f32,(t1-t0).as_secs_f64(),(t2-t1).as_secs_f64(),t2.elapsed().as_secs_f64(),(rows*t) as f64/e); }
}
