import torch, torch.nn as nn, copy, tempfile, os, sys, traceback, warnings
warnings.simplefilter("ignore")
import safetensors.torch as st
from runai_model_streamer import load_model, SafetensorsStreamer, load_file, safe_open
d=tempfile.mkdtemp(dir="/tmp/ta")
def outcome(f):
    try: return ("ok",f())
    except Exception as e: return ("err",type(e).__name__,str(e))
def run(name,make,saved,strict=True,assign=False,**kw):
    p=f"{d}/m.safetensors"; st.save_file(saved,p)
    a,b=make(),make()
    ra=outcome(lambda: a.load_state_dict(load_file(p) if False else st.load_file(p),strict=strict,assign=assign))
    rb=outcome(lambda: load_model(b,p,strict=strict,assign=assign,**kw))
    ok=ra[0]==rb[0]
    if not ok or ra[0]=="err": 
        if not ok: print("DIFF",name,strict,assign,ra[:3],rb[:3])
        elif ra[1]!=rb[1]: print("ERRTYPE",name,ra,rb)
        return
    sa,sb=a.state_dict(),b.state_dict()
    if sa.keys()!=sb.keys(): print("KEYS",name); return
    for k in sa:
        x,y=sa[k],sb[k]
        if not isinstance(x,torch.Tensor): 
            if type(x)!=type(y): print("T",name,k)
            continue
        try:
            if type(x)!=type(y) or x.dtype!=y.dtype or x.shape!=y.shape or x.stride()!=y.stride() or x.requires_grad!=y.requires_grad or x.device!=y.device: print("META",name,k,assign,x.dtype,y.dtype,x.stride(),y.stride(),type(x),type(y),x.requires_grad,y.requires_grad)
            elif x.device.type!="meta" and not torch.equal(x.to(torch.float64) if not x.is_complex() else x.resolve_conj(),y.to(torch.float64) if not y.is_complex() else y.resolve_conj()): print("VAL",name,k,assign,x,y)
        except Exception as e: print("cmp",name,k,e)
    pa={k:id(v) for k,v in a.named_parameters()}
    for (k,v),(k2,v2) in zip(a.named_parameters(),b.named_parameters()):
        if v.requires_grad!=v2.requires_grad or v.is_leaf!=v2.is_leaf or (type(v)!=type(v2)): print("PARAM",name,k)
    ma,mb=ra[1],rb[1]
    if sorted(ma.missing_keys)!=sorted(mb[0]) or sorted(ma.unexpected_keys)!=sorted(mb[1]): print("NAMES",name,ma,mb)
L=lambda: nn.Linear(3,4)
class TensorSub(torch.Tensor): pass
def sub():
    m=nn.Linear(3,4); m.weight=nn.Parameter(torch.zeros(4,3).as_subclass(TensorSub)); return m
def buf_none():
    m=nn.Linear(3,4); m.register_buffer("b2",None); return m
def sparse():
    m=nn.Linear(3,4); m.register_buffer("sp",torch.zeros(3,3).to_sparse()); return m
def shared_part():
    m=nn.Module(); x=torch.zeros(4,4); m.register_buffer("a",x); m.register_buffer("b",x.t()); return m
def grad_in():
    m=nn.Linear(3,4); m.weight.grad=torch.ones(4,3); return m
def nested_dots():
    m=nn.Module(); m.add_module("a",nn.Module()); m.a.register_parameter("weight",nn.Parameter(torch.zeros(2))); return m
def spectral():
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(3,4)))
def wn():
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(3,4)))
def ema():
    m=nn.Linear(3,4); return torch.optim.swa_utils.AveragedModel(m)
def cplx():
    m=nn.Module(); m.register_parameter("w",nn.Parameter(torch.zeros(3,dtype=torch.complex64))); return m
def dp(): return nn.DataParallel(nn.Linear(3,4))
def half_complex():
    m=nn.Module(); m.register_buffer("w",torch.zeros(3)); return m
def post():
    m=nn.Linear(3,4)
    def h(mod,keys): 
        with torch.no_grad(): mod.weight.add_(1)
    m.register_load_state_dict_post_hook(h); return m
def statehook():
    m=nn.Sequential(nn.Linear(3,4)); m[0].register_state_dict_post_hook(lambda mod,sd,p,lm: None); return m
def state_dict_prefix():
    m=nn.Sequential(nn.Linear(3,4))
    m[0]._register_state_dict_hook(lambda mod,sd,p,lm: [sd.__setitem__(k.replace("weight","W"),sd.pop(k)) for k in list(sd) if "weight" in k] and None)
    return m
def compiled(): return torch.compile(nn.Linear(3,4))
def version():
    return nn.BatchNorm2d(4)
def prune():
    m=nn.Linear(3,4); torch.nn.utils.prune.l1_unstructured(m,"weight",1); return m
def uninit(): return nn.Sequential(nn.LazyConv2d(3,3))
def fake():
    m=nn.Linear(3,4); m.weight=nn.Parameter(torch.zeros(4,3).expand(4,3)); return m
def slots():
    class S(nn.Linear):
        def __setattr__(self,k,v):
            super().__setattr__(k,v)
    return S(3,4)
def getattr_override():
    class S(nn.Linear):
        def __getattr__(self,k):
            return super().__getattr__(k)
    return S(3,4)
def loading_children():
    class P(nn.Module):
        def __init__(s): super().__init__(); s.l=nn.Linear(3,4)
        def _load_from_state_dict(s,sd,prefix,*a):
            k=prefix+"l.weight"
            if k in sd: sd[k]=sd[k]*3
            super()._load_from_state_dict(sd,prefix,*a)
    return P()
def prop():
    class P(nn.Module):
        def __init__(s): super().__init__(); s._w=nn.Parameter(torch.zeros(3))
        @property
        def w(s): return s._w
    return P()
def plist(): 
    m=nn.Module(); m.p=nn.ParameterDict({"a":nn.Parameter(torch.zeros(3)),"b":torch.zeros(2)}); return m
def qat():
    return nn.Sequential(torch.ao.nn.quantized.Linear(3,4))
def quantemb():
    m=nn.Module(); m.register_buffer("q",torch.quantize_per_tensor(torch.zeros(3),.1,0,torch.qint8)); return m
def nt():
    m=nn.Module(); m.register_buffer("n",torch.nested.nested_tensor([torch.zeros(2),torch.zeros(3)])); return m
makes={k:v for k,v in dict(L=L,sub=sub,buf_none=buf_none,sparse=sparse,shared_part=shared_part,grad_in=grad_in,nested_dots=nested_dots,spectral=spectral,wn=wn,ema=ema,cplx=cplx,dp=dp,hc=half_complex,post=post,statehook=statehook,sdp=state_dict_prefix,compiled=compiled,version=version,prune=prune,uninit=uninit,fake=fake,slots=slots,ga=getattr_override,lc=loading_children,prop=prop,plist=plist,qat=qat,qe=quantemb,nt=nt,mha=lambda:nn.MultiheadAttention(4,2),gru=lambda:nn.GRU(2,3),emb=lambda:nn.Embedding(4,3,padding_idx=0),adaptive=lambda:nn.AdaptiveLogSoftmaxWithLoss(4,10,[3,5]),tr=lambda:nn.Transformer(4,2,1,1,8)).items()}
for nm,mk in makes.items():
    try: sd=mk().state_dict()
    except Exception as e: print("mk",nm,e); continue
    sd={k:v for k,v in sd.items() if isinstance(v,torch.Tensor)}
    def val(v,i):
        try:
            if v.is_sparse or v.is_quantized or v.is_nested: return torch.ones(3)*i
            if isinstance(v,nn.parameter.UninitializedTensorMixin): return torch.randn(3,2,3,3)
            return (torch.rand(v.shape)*100).to(v.dtype).clone()
        except Exception as e: return torch.ones(3)
    base={k:val(v,i) for i,(k,v) in enumerate(sd.items())}
    vs={"same":base,"f64":{k:v.to(torch.float64) if v.is_floating_point() else v for k,v in base.items()},"int":{k:v.to(torch.int32) if not v.is_complex() else v for k,v in base.items()},
        "bool":{k:v.to(torch.bool) for k,v in base.items()},"f8":{k:(v.to(torch.float8_e4m3fn) if v.is_floating_point() else v) for k,v in base.items()},"cplx":{k:v.to(torch.complex64) for k,v in base.items()},
        "missing":dict(list(base.items())[1:]),"extra":{**base,"zz":torch.ones(2)},"shape":{k:v.reshape(-1)[:1] if v.numel() else v for k,v in base.items()},"shape1":{k:(v.reshape(1) if v.dim()==0 else v) for k,v in base.items()},
        "prefix":{"module."+k:v for k,v in base.items()}, "unsq":{k:v.unsqueeze(0) for k,v in base.items()}}
    for vn,v in vs.items():
        v={k:x.contiguous() for k,x in v.items()}
        if not v: v={"zz":torch.ones(1)}
        for strict in(True,False):
            for assign in(False,True):
                try: run(nm+":"+vn,mk,v,strict,assign)
                except Exception as e: print("HARNESS",nm,vn,type(e).__name__,e); traceback.print_exc(limit=-2)
print("done")
